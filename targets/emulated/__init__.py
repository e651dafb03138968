"""Emulated ARM processors: how the sandbox that they run in is set up, found and used."""
