"""Variables: what a descent moves, and the examples and labels that the variables stand for."""
