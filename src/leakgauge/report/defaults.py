"""Defaults of the report. The command line tells them in its help, which must not wait for the imports of a report."""

LOSS = 0.02
"""Test accuracy, a fraction in [0, 1], that a defense may cost where nothing else is asked."""
