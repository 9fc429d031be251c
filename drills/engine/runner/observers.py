"""Observers: one thread a cluster and one for the controller, each writing what it sees into the history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from drills.engine.runner.recorder import Recorder
from fleet.protocols import Emit, Fleet
from history.errors import RecordingError
from history.op import PROCESS_DIED
from history.priority import go_first

Watch = Callable[[Emit, threading.Event], None]


class Observers:
    """Watches every cluster and the controller until ``stop``; an observer that raises is recorded, not hidden."""

    def __init__(self, fleet: Fleet, recorder: Recorder) -> None:
        self._recorder = recorder
        self._stop = threading.Event()
        watches: list[tuple[str, Watch]] = [(cluster.name, cluster.watch) for cluster in fleet.clusters]
        if fleet.controller is not None:
            watches.append(("controller", fleet.controller.watch))
        self._threads = [
            threading.Thread(target=self._observe, args=(name, watch), name=f"observe-{name}", daemon=True)
            for name, watch in watches
        ]

    def start(self) -> None:
        """Starts all threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all threads; waits at most 3 s for each."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=3.0)

    def _observe(self, name: str, watch: Watch) -> None:
        go_first()  # this thread alone: what is stamped on receipt must not wait for what it is about
        try:
            watch(self._recorder.append, self._stop)
        except Exception as error:
            with suppress(RecordingError):  # a full disk ends the run elsewhere: the load process says so
                if not self._stop.is_set():
                    text = repr(error)
                    self._recorder.event(PROCESS_DIED, error="observer", process=f"observer of {name}", text=text)
