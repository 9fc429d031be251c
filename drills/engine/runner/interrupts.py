"""``Interrupts``: what Ctrl-C, SIGTERM, SIGHUP (a terminal that closes) and SIGUSR1 do while a drill runs.

The first of the first three raises ``KeyboardInterrupt`` in the main thread, but never where it would lose something:
not before there is a run to judge (``release``), not between the start of a process and the note of its pid
(``held``), and not while everything is undone (``answer_only``). SIGUSR1 asks the guard to stop the run.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from drills.engine.runner.guarding import StopRequest
from drills.engine.runner.view import View


class Interrupts:
    """See the module docstring. A context manager that gives the signals' former handlers back; holds at first."""

    def __init__(self, view: View, stop: StopRequest) -> None:
        self._view, self._stop = view, stop
        self._held, self._pending, self._answer_only = True, False, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores that one
                    self._before[number] = signal.signal(number, self._handle)
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda number, frame: self._stop.by_signal())
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def release(self) -> None:
        """From here on an interrupt interrupts; one that came before does so now."""
        self._held = False
        if self._pending and not self._answer_only:
            self._answer_only = True
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """An interrupt that comes in the block is raised at its end."""
        self._held = True
        try:
            yield
        finally:
            self.release()

    def answer_only(self) -> None:
        """From here on an interrupt is only told what is under way."""
        self._answer_only = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._answer_only:
            self._view.note("still healing and cleaning up; this ends by itself")
        elif self._held:
            self._pending = True
        else:
            self._answer_only = True
            raise KeyboardInterrupt
