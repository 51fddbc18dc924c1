"""Local training: one gradient, local steps, several rounds, and views of those."""
