"""Fine-tuning by the next token: of all weights, or of low-rank changes to them."""
