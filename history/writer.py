"""``OpWriter``: the append-only file of one process. One writer a process, one file a writer, one line an op.

Each op goes to the kernel in one ``write`` before ``append`` returns, so a process killed with SIGKILL loses at
most the line that it was writing; nothing waits in a buffer of ours. Only a machine crash can lose more.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from history.errors import RecordingError
from history.op import Op, encode


class OpWriter:
    """Appends ops to ``path`` (created; appended to when it exists). Thread-safe; not for use after ``os.fork``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = path.name.removesuffix(".jsonl")
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            if _ends_in_the_middle(path):  # a writer before us was killed: keep its cut line apart from ours
                os.write(self._fd, b"\n")
        except OSError as error:
            raise self._failed(error) from error

    def append(self, op: Op) -> None:
        """Writes one op; raises ``RecordingError`` when the disk does not take the whole line."""
        line = encode(op) + b"\n"
        with self._lock:
            try:
                written = os.write(self._fd, line)
                while written < len(line):  # a short write: the next one says why (usually: disk full)
                    written += os.write(self._fd, line[written:])
            except OSError as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(
            f"cannot record to {self.path}: {error.strerror}",
            hint="free space or choose another place with --out DIR; a run without its records is never a pass",
        )


def _ends_in_the_middle(path: Path) -> bool:
    """True when the file has a last line without its newline."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
