"""Kernels that recover tokens in closed form or with a proof."""
