"""How the runner and the load workers talk: small files in the run directory, replaced whole.

``load/control.json``     written by the runner (or by Locust's master, when started by hand), read by every worker
``load/worker-<i>.json``  written by worker i when it is ready, when it has drained, when it failed

Files, because they outlive either side, work for any number of workers and need no port. A worker looks before it
sends, so a stop that was written before its instant is obeyed exactly, however busy the worker was.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from history.clock import NS_PER_S, now_ns
from history.rundir import RunDirectory, write_atomic

AHEAD_S = 0.3
"""The least time between ``begin`` and the plan's offset 0: every worker has read the start by then."""

STOP_AHEAD_S = 0.1
"""The least time between ``stop`` and the stop: the file is written by then, and workers look before they send."""

EXIT_RECORDING = 74
"""Exit code of a load process that could not write its ops (sysexits' EX_IOERR)."""

EXIT_REFUSED = 64
"""Exit code of a load process that was started wrongly, its log says how (sysexits' EX_USAGE)."""


@dataclass(frozen=True)
class Control:
    """``start_ns``: the instant of the plan's offset 0. ``stop_ns``: no send is due at or after it."""

    start_ns: int | None = None
    stop_ns: int | None = None


WorkerState = Literal["ready", "drained", "failed"]


@dataclass(frozen=True)
class WorkerStatus:
    """What one worker says of itself. ``recorded``: ops on disk; ``code``: the exit code that its end calls for
    unless it drained."""

    index: int
    pid: int
    state: WorkerState
    recorded: int = 0
    reason: str = ""
    code: int = 1

    @property
    def gone(self) -> bool:
        """Its process has ended (a zombie that nobody waited for has ended too)."""
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class ControlFiles:
    """The control files of one run directory."""

    def __init__(self, run: RunDirectory) -> None:
        self._folder = run.path / "load"
        self._control = self._folder / "control.json"
        self._seen: tuple[int, int] = (0, 0)
        self._last = Control()

    def read(self) -> Control:
        """The control as it is now; costs one ``stat`` while nothing changed."""
        try:
            stat = self._control.stat()
            if (stat.st_ino, stat.st_mtime_ns) != self._seen:
                self._last = msgspec.json.decode(self._control.read_bytes(), type=Control)
                self._seen = (stat.st_ino, stat.st_mtime_ns)
        except FileNotFoundError:
            return Control()
        return self._last

    def write(self, control: Control) -> None:
        """Replaces the control; ``RecordingError`` where the disk does not take it."""
        write_atomic(self._control, msgspec.json.encode(control))

    def begin(self, start_ns: int = 0, for_s: float | None = None) -> int:
        """Starts the plan at ``start_ns``, or as early as every worker can know of it, and stops it ``for_s`` later.

        Returns the instant of its offset 0.
        """
        start_ns = max(start_ns, now_ns() + int(AHEAD_S * NS_PER_S))
        self.write(Control(start_ns, None if for_s is None else start_ns + int(for_s * NS_PER_S)))
        return start_ns

    def stop(self, stop_ns: int = 0) -> int:
        """Stops the plan at ``stop_ns``, or as early as possible; an earlier stop stays. Returns the instant."""
        control, stop_ns = self.read(), max(stop_ns, now_ns() + int(STOP_AHEAD_S * NS_PER_S))
        if control.stop_ns is None or stop_ns < control.stop_ns:
            self.write(control := Control(control.start_ns, stop_ns))
        assert control.stop_ns is not None
        return control.stop_ns

    def report(self, status: WorkerStatus) -> None:
        """A worker's word on itself."""
        write_atomic(self._worker(status.index), msgspec.json.encode(status))

    def workers(self) -> dict[int, WorkerStatus]:
        """Every worker that has reported so far, by index."""
        found = [
            msgspec.json.decode(path.read_bytes(), type=WorkerStatus) for path in self._folder.glob("worker-*.json")
        ]
        return {status.index: status for status in sorted(found, key=lambda status: status.index)}

    def clear(self) -> None:
        """Removes the files; nothing in them is part of the history."""
        shutil.rmtree(self._folder, ignore_errors=True)  # a worker killed in the middle of a write leaves its part

    def _worker(self, index: int) -> Path:
        return self._folder / f"worker-{index}.json"
