"""``Watching``: a run as seen from another terminal: live, read-only, from the same files that the runner steers by.

Works on a run that is over as well, and says how it ended. Writes nothing, asks no process, holds up nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import assertions
from drills.engine.runner.strip import strip_of
from drills.engine.runner.tail import Tail
from drills.engine.runner.view import View
from drills.engine.safety.journal import read_journal
from drills.engine.safety.lock import Locks
from history import op as ops
from history.clock import NS_PER_S, Clock, now_ns
from history.op import Op, encode
from history.reader import Run, load_bounds, read_run
from history.rundir import RunDirectory

POLL_S = 0.5

_PLAIN = {
    ops.FLEET_READY: "Fleet is ready",
    ops.LOAD_START: "Load has begun",
    ops.LOAD_STOP: "Load has stopped",
    ops.LOAD_DRAINED: "Load is drained",
    ops.INTERRUPTED: "Interrupted",
}
_OF_CLUSTER = {
    ops.FAULT_VERIFIED: "the fault in {} is verified",
    ops.FAULT_HEAL: "healing {}",
    ops.FAULT_HEALED: "{} is verified back",
    ops.DETECTED: "the controller holds {} to be lost",
    ops.RETURNED: "the controller holds {} to be back",
}


def tell(view: View, op: Op) -> None:
    """Says one event in the view's words; events of replicas are not worth a line."""
    good, said = op.outcome == "ok", str(op.detail.get("text") or op.detail.get("reason") or op.error)
    if op.kind == ops.STEP_START:
        view.step(said)
    elif op.kind == ops.STEP_END:
        view.done(said, good)
    elif op.source == ops.GUARD:
        view.done(f"guard {op.kind} tripped: {said}", good)
    elif op.kind == ops.FAULT_INJECT:
        view.note(f"injected: {op.detail.get('label') or op.cluster}")
    elif op.kind in (ops.PROCESS_DIED, ops.NOTED, ops.CLOCK_STEPPED):
        view.note(said)
    elif op.kind in _OF_CLUSTER:
        text = _OF_CLUSTER[op.kind].format(op.cluster or op.detail.get("target") or "it")
        view.note(text if good else f"NOT so: {text}")
    elif op.kind in _PLAIN:
        view.note(_PLAIN[op.kind] + ("" if good else f": {said}"))


@dataclass
class Stamp:
    """The clock of the view: seconds of the run, not of the one who watches."""

    at_s: float = 0.0

    def __call__(self) -> float:
        return self.at_s


class Watching:
    """Follows one run directory; ``stamp`` is what ``view`` tells the time by."""

    def __init__(
        self,
        run: Path,
        locks: Locks,
        view: View,
        stamp: Stamp,
        clock: Clock = now_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory, self._locks, self._view, self._stamp = RunDirectory(run.resolve()), locks, view, stamp
        self._clock, self._sleep = clock, sleep
        self._told: set[bytes] = set()
        self._phase = ""

    def follow(self) -> str:
        """Shows the run until it is over; returns how it ended, in one sentence."""
        tail: Tail | None = None
        while self._alive():
            began = time.monotonic()
            if tail is None and self._directory.header.is_file() and self._directory.schedule.is_file():
                tail = Tail(self._directory, self._directory.read_header(), self._directory.read_schedule())
            if tail is not None:
                run = tail.run()
                self._tell_new(run)
                start, _ = load_bounds(run.history)
                if start != ops.NEVER and not run.history.of_kind(ops.LOAD_STOP):
                    self._stamp.at_s = self._since(run, self._clock())
                    self._view.tick(strip_of(run, self._clock(), start, self._phase))
            self._sleep(max(POLL_S, 5 * (time.monotonic() - began)))  # whoever watches must not disturb the run
        if self._directory.header.is_file() and self._directory.schedule.is_file():
            self._tell_new(read_run(self._directory.path))
        return self.ended()

    def ended(self) -> str:
        """How a run that is over ended."""
        path = self._directory.path
        if not path.is_dir():
            return f"there is no run directory {path}"
        if (dead := self._locks.of_run(path)) and not read_journal(self._directory.journal).healed:
            return f"its harness died and it was not healed ({dead[0]}). Next: blackstart restore {path}"
        try:
            result = assertions.decode_result(self._directory.result.read_bytes())
        except (OSError, msgspec.MsgspecError, ValueError):
            return f"it ended without a result. Next: blackstart analyze {path}"
        return f"it ended {result.verdict.upper()}: {result.headline}"

    def _alive(self) -> bool:
        return any(lock.owner.alive for lock in self._locks.of_run(self._directory.path))

    def _since(self, run: Run, t_ns: int) -> float:
        return (t_ns - run.header.anchor.monotonic_ns) / NS_PER_S

    def _tell_new(self, run: Run) -> None:
        for op in sorted(run.history.events, key=lambda op: max(op.t_intended, op.t_done)):
            if (key := encode(op)) not in self._told:
                self._told.add(key)
                self._stamp.at_s = self._since(run, max(op.t_intended, op.t_done))
                self._phase = str(op.detail.get("step", self._phase)) if op.kind == ops.STEP_START else self._phase
                tell(self._view, op)
