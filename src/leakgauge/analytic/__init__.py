"""Methods in closed form, computed in float64.

Attacks import them. They import only `core`, `federated` and `output`.
"""
