"""How an artifact is opened and run: one file a runtime."""
