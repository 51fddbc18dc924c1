"""Variables of a search: how examples, labels and other unknowns are represented."""
