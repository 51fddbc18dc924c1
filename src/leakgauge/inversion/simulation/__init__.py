"""The simulated update of a candidate batch: the adversary's forward operator, and what it needs of a model."""
