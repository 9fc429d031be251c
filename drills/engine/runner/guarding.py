"""Guards at work: which one has said no for how long, who asked to stop, and what is raised when one trips."""

from __future__ import annotations

import threading
from pathlib import Path

from drills.engine.nouns.guards import Glance, Guard, stop_request
from history.clock import NS_PER_S
from history.rundir import RunDirectory


class RunStopped(Exception):
    """The run ends early; what was recorded is judged, and ``reason`` says why there is no more."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GuardTripped(RunStopped):
    """A guard ended the run; its op is in the history."""


class StopRequest:
    """Who asked this run to stop: a file in its directory, or a signal. Set from a signal handler, so it only notes."""

    def __init__(self, run: Path) -> None:
        self._file = RunDirectory(run).stop
        self._signal = threading.Event()

    def by_signal(self) -> None:
        """SIGUSR1 came."""
        self._signal.set()

    def __str__(self) -> str:
        if self._signal.is_set():
            return "asked to stop by SIGUSR1"
        return f"asked to stop by the file {self._file.name} in the run's directory" if self._file.exists() else ""


class GuardWatch:
    """Asks all guards; one that says no without a break for its whole grace period trips. The stop request always
    stands first."""

    def __init__(self, guards: tuple[Guard, ...]) -> None:
        self._guards = (stop_request(), *guards)
        self._since_ns: dict[int, int] = {}

    def look(self, glance: Glance) -> tuple[Guard, str] | None:
        """The first guard that trips now, and why; one that raises trips at once."""
        for number, guard in enumerate(self._guards):
            try:
                reason = guard.check(glance)
            except Exception as error:  # nobody watches any more
                return guard, f"guard {guard.name} raised {type(error).__name__}: {error}"
            if not reason:
                self._since_ns.pop(number, None)
                continue
            since = self._since_ns.setdefault(number, glance.now_ns)
            if glance.now_ns - since >= guard.grace_s * NS_PER_S:
                return guard, str(reason)
        return None
