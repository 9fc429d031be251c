"""The write-ahead journal: intent on disk (fsync) before every injection, outcome after it.

Read by people today, by ``restore`` later; one JSON object a line. It never decides anything.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from history.errors import RecordingError


class Journal:
    """Appends entries to ``path``; each is on disk when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, entry: str, **fields: str | int | bool) -> None:
        """One entry (``intent``, ``outcome``); ``RecordingError`` when the disk does not take it."""
        line = msgspec.json.encode({"entry": entry, "wall_unix_ns": time.time_ns(), "pid": os.getpid(), **fields})
        try:
            with self._path.open("ab") as file:
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RecordingError(
                f"cannot write the journal {self._path}: {error.strerror}",
                hint="nothing was injected; free space or choose another place with --out DIR",
            ) from error
