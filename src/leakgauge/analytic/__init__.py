"""Kernels in closed form, in float64. Attacks import them. They import `core`, `federated` and `output` alone."""
