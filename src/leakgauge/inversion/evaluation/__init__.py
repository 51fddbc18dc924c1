"""Value, gradient and Jacobian of an objective, and the way to compute them that costs least."""
