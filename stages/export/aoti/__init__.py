"""Programs of torch for machines that have torch alone: exported, and compiled where their device is."""
