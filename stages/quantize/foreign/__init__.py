"""Quantizers of other libraries, run by the interpreter of an environment that has them."""
