"""Checkpoint sources: intake checks, hub downloads and the `load` stage."""
