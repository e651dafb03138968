"""Of the stand-in: fails as the real one does where there is no accelerator."""


class IntermediatesCache:
    """Holds nothing."""

    def pin_memory(self, batch_index):
        """Raises, unless it was replaced."""
        raise RuntimeError("Cannot access accelerator device when none is available.")
