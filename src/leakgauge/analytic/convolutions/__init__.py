"""Exact inversion of convolutions from the gradients of their weights."""
