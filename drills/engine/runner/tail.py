"""``Tail``: the history so far. Reads what every process has appended; steers the run, never judges it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from history.op import Op, decode
from history.reader import ColumnBuilder, Run
from history.records import RunHeader
from history.rundir import RunDirectory, Schedule


class Tail:
    """Follows ``ops/*.jsonl`` of a live run; ``run()`` is a Run of everything read until now."""

    def __init__(self, directory: RunDirectory, header: RunHeader, schedule: Schedule) -> None:
        self._directory, self._header, self._schedule = directory, header, schedule
        self._builder = ColumnBuilder()
        self._offsets: dict[Path, int] = {}

    def run(self) -> Run:
        """Reads on in every file (whole lines only) and returns the run as it stands."""
        for path in sorted(self._directory.ops.glob("*.jsonl")):
            self._builder.add(self._read(path))
        return Run(self._header, self._schedule, self._builder.build())

    def _read(self, path: Path) -> list[Op]:
        try:
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                data = file.read()
        except FileNotFoundError:
            return []  # the run has ended, and its parts are one file by now
        whole = data.rfind(b"\n") + 1
        self._offsets[path] = self._offsets.get(path, 0) + whole
        ops = []
        for line in data[:whole].splitlines():
            try:
                ops.append(decode(line))
            except (msgspec.MsgspecError, ValueError):
                continue  # a damaged line; the reader counts it at analysis
        return ops
