"""Layers with special rules in local training: dropout, BatchNorm and bottlenecks. Also a check of a loss's targets."""
