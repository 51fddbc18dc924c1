"""Kernels that read text from the gradients of transformers: spans of inputs, prefixes, sequences, and their counts."""
