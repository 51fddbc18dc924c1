"""Exit codes of the command. Beside them, 130 tells Ctrl-C and 143 SIGTERM."""

DONE, FAILED, REFUSED = 0, 1, 2
"""Done: all ran. Failed: an audit or a training failed; the others are recorded. Refused: nothing ran."""
