"""``Injector``: injects, verifies and heals the faults of a run, each journalled ahead and recorded after.

It trusts no call: a fault, and its healing, is what independent signals say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from drills.engine.nouns.faults import Fault
from drills.engine.runner.guarding import RunStopped
from drills.engine.runner.recorder import Recorder
from drills.engine.safety.custody import Custody
from fleet.protocols import Cluster, Fleet
from history.clock import NS_PER_S, Clock
from history.errors import FaultError, FleetError
from history.op import FAULT_HEAL, FAULT_HEALED, FAULT_INJECT, FAULT_VERIFIED, PROVISIONED
from history.records import FaultMark, Signal

VERIFY_S = 10.0
"""A fault that has not taken effect by then has failed."""
POLL_S = 0.05
HEAL_S = 60.0
"""A cluster that is not verified back by then is reported as not healed."""


class Injector:
    """See the module docstring."""

    def __init__(self, fleet: Fleet, recorder: Recorder, custody: Custody) -> None:
        self._fleet, self._recorder, self._custody = fleet, recorder, custody
        self._clusters: dict[str, Cluster] = {cluster.name: cluster for cluster in fleet.clusters}
        self._faults: dict[str, Fault] = {}
        self.took_s = 0.0
        """Seconds from the last call, to hurt or to heal, until it was verified, as the record has them."""

    @property
    def hurt(self) -> tuple[str, ...]:
        """Clusters and stores with a fault that was injected (or was about to be) and not verified healed."""
        return tuple(self._faults)

    def inject(self, fault: Fault, pulse: Callable[[], None]) -> tuple[Signal, ...]:
        """Journals, injects, verifies; ``RunStopped`` when the fault did not take effect. ``pulse`` may raise."""
        subject = self._subject(fault)
        mark = fault.mark(subject)
        with self._custody.injection(mark, fault.target):
            return self._inject(fault, subject, mark, pulse)

    def heal(self, name: str) -> tuple[Signal, ...]:
        """Heals the fault in cluster or store ``name`` and verifies; the signals say whether it is back. Idempotent."""
        fault = self._faults.get(name)
        if fault is None:
            return ()
        subject, called = self._subject(fault), self._recorder.clock()
        try:
            self._recorder.event(FAULT_HEAL, at_ns=called, cluster=fault.cluster, target=name)
        finally:  # a full disk must not keep a cluster down
            fault.heal(subject)
        stages: dict[str, tuple[int, Signal]] = {}
        signals = until_all(lambda: self._note(stages, fault.verify_healed(subject)), HEAL_S, self._recorder.clock)
        for stage, (seen_ns, signal) in stages.items():
            self._recorder.event(
                PROVISIONED,
                at_ns=called,
                done_ns=seen_ns,
                ok=signal.ok,
                cluster=fault.cluster,
                stage=stage,
                seen=signal.seen,
            )
        self._record(FAULT_HEALED, called, fault.cluster, signals)
        ok = all(signal.ok for signal in signals)
        if ok:
            del self._faults[name]
        self._custody.healed(name, ok)
        return signals

    def _inject(self, fault: Fault, subject: Any, mark: FaultMark, pulse: Callable[[], None]) -> tuple[Signal, ...]:
        clock = self._recorder.clock
        self._faults[fault.target] = fault
        called, returned = clock(), False
        try:
            fault.inject(subject)
            returned = True
        finally:  # an interrupt or an error in the middle of the call may have hurt the cluster all the same
            self._recorder.event(
                FAULT_INJECT,
                at_ns=called,
                done_ns=clock(),
                ok=returned,
                cluster=fault.cluster,
                kind=mark.kind,
                signature=mark.signature,
                label=mark.label,
            )
        signals = until_all(lambda: fault.verify(subject), VERIFY_S, clock, pulse)
        self._record(FAULT_VERIFIED, called, fault.cluster, signals)
        require(signals, f"{mark.kind} in {fault.target} did not take effect within {VERIFY_S:g} s")
        return signals

    def _subject(self, fault: Fault) -> Any:
        return self._clusters[fault.cluster] if fault.cluster else self._fleet

    def _note(self, stages: dict[str, tuple[int, Signal]], signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
        """Keeps when each signal was first ok, or last asked; passes them on."""
        for signal in signals:
            if signal.name not in stages or not stages[signal.name][1].ok:
                stages[signal.name] = (self._recorder.clock(), signal)
        return signals

    def _record(self, kind: str, called: int, cluster: str, signals: tuple[Signal, ...]) -> None:
        ok, done = bool(signals) and all(signal.ok for signal in signals), self._recorder.clock()
        self.took_s = (done - called) / NS_PER_S
        self._recorder.event(
            kind,
            at_ns=called,
            done_ns=done,
            ok=ok,
            cluster=cluster,
            signals=[asdict(signal) for signal in signals],
        )


def until_all(
    look: Callable[[], tuple[Signal, ...]], at_most_s: float, clock: Clock, pulse: Callable[[], object] = lambda: None
) -> tuple[Signal, ...]:
    """Looks until every signal is ok, or ``at_most_s`` are over; ``pulse`` is called in between and may raise."""
    deadline = clock() + round(at_most_s * NS_PER_S)
    while True:
        try:
            signals = look()
        except (FaultError, FleetError) as error:
            signals = (Signal("verification", False, error.message),)
        if all(signal.ok for signal in signals) or clock() >= deadline:
            return signals
        pulse()
        time.sleep(POLL_S)


def require(signals: tuple[Signal, ...], otherwise: str) -> None:
    """``RunStopped`` with what was seen instead, unless every signal is ok."""
    if failed := [f"{signal.name}: {signal.seen}" for signal in signals if not signal.ok]:
        raise RunStopped(f"{otherwise}: {'; '.join(failed)}")
