"""Export stages: checkpoints become files that a runtime loads."""
