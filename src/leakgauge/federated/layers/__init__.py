"""Layers that need care in local training: dropout, BatchNorm and bottlenecks. Also checks of a loss's targets."""
