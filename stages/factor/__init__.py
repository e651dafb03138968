"""Factoring: linear maps become two thinner ones, where these are smaller."""
