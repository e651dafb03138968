"""What the built-in stages take before any run has shown it: one function a stage, measured once."""
