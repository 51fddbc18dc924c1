"""Defaults of the report. The command line shows them in its help, so this module must import nothing slow."""

LOSS = 0.02
"""Largest loss of test accuracy that a recommended defense may cause, a fraction in [0, 1]."""
