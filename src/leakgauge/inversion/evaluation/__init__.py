"""Evaluation: value, gradient and Jacobian of an objective, computed in the way that costs least."""
