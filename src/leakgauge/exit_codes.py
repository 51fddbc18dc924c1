"""Exit codes of the command. Two others exist: 130 after Ctrl-C, and 143 after SIGTERM."""

DONE, FAILED, REFUSED = 0, 1, 2
"""DONE: everything ran. FAILED: an audit or a training failed, and the others are recorded. REFUSED: nothing ran."""
