"""Simulation: the update of a candidate batch, and the derivatives of the model that a search needs."""
