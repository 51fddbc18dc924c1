"""Descents: generators that ask for an objective and are sent its value and gradient."""
