"""Closed-form kernels, in float64. Seen by attacks; see nothing but core."""
