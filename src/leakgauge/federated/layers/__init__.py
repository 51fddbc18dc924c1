"""Layers that need care in local training: dropout, batch statistics, bottlenecks, and the targets of a loss."""
