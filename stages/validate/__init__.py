"""Validation stages: quality and cost of an artifact against the unmodified model."""
