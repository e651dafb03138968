"""Distillation: a smaller network learns what a larger one predicts, and how it comes to that."""
