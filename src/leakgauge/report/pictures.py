"""Pictures of a run as data URIs. So the page contains everything that it shows, and opens offline."""

from __future__ import annotations

import base64
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""


class Album:
    """Reader of the PNG files in one folder. It reads each file once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._known: dict[str, str | None] = {}

    def uri(self, name: str | None) -> str | None:
        """Return a picture as a data URI, or None if it is missing, not a PNG, or outside the folder."""
        if not name:
            return None
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> str | None:
        # A stranger may have written the records. They must not bring other files of this machine into the page.
        try:
            path = (self._folder / name).resolve()
            data = path.read_bytes() if path.is_relative_to(self._folder) else b""
        except (OSError, ValueError):
            return None
        if not data.startswith(SIGNATURE):
            return None
        return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
