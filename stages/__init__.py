"""The kinds of step a run is made of: one module or folder for each stage."""
