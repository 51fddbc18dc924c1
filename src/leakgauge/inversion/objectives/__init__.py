"""Terms of an objective: distances of updates, and priors on examples."""
