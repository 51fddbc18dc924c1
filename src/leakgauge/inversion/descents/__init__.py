"""Descents: rules that lower an objective, as generators that request its value and gradient."""
