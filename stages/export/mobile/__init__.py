"""Artifacts for phones that torch itself exports: one plain network, and the formats it is lowered to."""
