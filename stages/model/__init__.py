"""What every stage knows about models, once: families, checkpoints, the quantized form, token windows."""
