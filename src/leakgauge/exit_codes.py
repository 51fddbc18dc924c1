"""Exit codes of the command. In addition, 130 means Ctrl-C, and 143 means SIGTERM."""

DONE, FAILED, REFUSED = 0, 1, 2
"""DONE: everything ran. FAILED: an audit or a training failed, and the others are recorded. REFUSED: nothing ran."""
