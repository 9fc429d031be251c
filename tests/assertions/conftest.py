"""Scripted histories: a small fleet, an open-loop load and outages whose truth is known to the nanosecond.

Seconds in a script count from the injection. Models: ``solo`` (one replica, in the victim ``cobalt``), ``pair`` (one
of two replicas in the victim), ``calm`` (none). They take turns in the schedule, so each has a third of the rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from history.op import (
    CANARY,
    CLUSTER_PROBER,
    CONTROLLER,
    FAULT_HEAL,
    FAULT_HEALED,
    FAULT_INJECT,
    FAULT_VERIFIED,
    LOAD,
    LOAD_DRAINED,
    LOAD_START,
    LOAD_STOP,
    OBSERVER,
    PROBE_API,
    PROBE_DATA,
    PROBE_ENTRY,
    RUNNER,
    Op,
)
from history.reader import Run, columns
from history.records import FaultMark, ObjectiveSpec, RunHeader
from history.rundir import Schedule
from tests import headers

S, MS = 1_000_000_000, 1_000_000
MODELS = ("solo", "pair", "calm")
HOMES = (("solo", "cobalt"), ("pair", "cobalt"), ("pair", "amber"), ("calm", "jade"))


def header(objectives: tuple[ObjectiveSpec, ...] = (), rate_rps: float = 120.0) -> RunHeader:
    """A header of the small fleet; ``cobalt`` is the victim."""
    return headers.header(
        fleet=headers.fleet(HOMES, {"solo": "ft", "pair": "ft", "calm": "base"}),
        mix=headers.mix(MODELS),
        load=headers.load(rate_rps, 3600.0),
        faults=(FaultMark("power-loss", "cobalt", "refused", "cobalt lost power"),),
        objectives=objectives,
    )


@dataclass(frozen=True)
class Script:
    """A run to be built. Each method returns a changed copy; ``run()`` builds it."""

    rate_rps: float = 120.0
    baseline_s: float = 10.0
    observed_s: float = 30.0
    failback_s: float | None = 10.0
    zero_ns: int = 1_000 * S
    objectives: tuple[ObjectiveSpec, ...] = ()
    changes: tuple[tuple[Callable[[Op], bool], dict[str, Any]], ...] = ()
    gone: tuple[Callable[[Op], bool], ...] = ()
    extra: tuple[Op, ...] = ()
    without: tuple[str, ...] = ()
    header_changes: dict[str, Any] = field(default_factory=dict)

    def change(self, start_s: float, end_s: float, models: tuple[str, ...] = MODELS, **fields: Any) -> Script:
        """Gives other fields to load ops intended in [start, end)."""

        def chosen(op: Op) -> bool:
            return self.at(start_s) <= op.t_intended < self.at(end_s) and op.model in models

        return replace(self, changes=(*self.changes, (chosen, fields)))

    def fail(self, start_s: float, end_s: float, models: tuple[str, ...] = MODELS, every: int = 1) -> Script:
        """Load ops intended in [start, end) are refused; ``every`` = n: each n-th of the schedule only."""

        def chosen(op: Op) -> bool:
            inside = self.at(start_s) <= op.t_intended < self.at(end_s) and op.model in models
            return inside and op.seq // len(MODELS) % every == 0

        fields = {"outcome": "fail", "error": "refused", "t_first_byte": -1, "cluster": "", "weights": ""}
        return replace(self, changes=(*self.changes, (chosen, fields)))

    def lose(self, start_s: float, end_s: float, models: tuple[str, ...] = MODELS) -> Script:
        """No process leaves a record of load ops intended in [start, end)."""

        def chosen(op: Op) -> bool:
            return self.at(start_s) <= op.t_intended < self.at(end_s) and op.model in models

        return replace(self, gone=(*self.gone, chosen))

    def event(self, kind: str, at_s: float, source: str = OBSERVER, **fields: Any) -> Script:
        """One more event, received at ``at_s``."""
        t = self.at(at_s)
        op = Op(
            **{
                "source": source,
                "process": source,
                "kind": kind,
                "t_intended": t,
                "outcome": "ok",
                "t_done": t,
                **fields,
            }
        )
        return replace(self, extra=(*self.extra, op))

    def at(self, seconds: float) -> int:
        """Seconds since the injection -> monotonic ns."""
        return self.zero_ns + round(seconds * S)

    @property
    def end_s(self) -> float:
        return self.observed_s + (self.failback_s or 0.0)

    def run(self) -> Run:
        """The run, as a reader of its directory would see it."""
        count = round((self.baseline_s + self.end_s) * self.rate_rps)
        offsets = (np.arange(count) * (S / self.rate_rps)).astype(np.int64)
        schedule = Schedule(offsets, (np.arange(count) % len(MODELS)).astype(np.int16))
        made = replace(header(self.objectives, self.rate_rps), **self.header_changes)
        return Run(made, schedule, columns(self.ops(offsets)))

    def ops(self, offsets: NDArray[np.int64]) -> list[Op]:
        """Every op of the run, load first."""
        ops = [self._load_op(i, self.at(-self.baseline_s) + int(offset)) for i, offset in enumerate(offsets)]
        ops = [op for op in ops if not any(gone(op) for gone in self.gone)]
        events = [op for op in (*self._runner(), *self._probes()) if op.kind not in self.without]
        return [*ops, *events, *self.extra]

    def _load_op(self, seq: int, t: int) -> Op:
        model = MODELS[seq % len(MODELS)]
        homes = [c for m, c in HOMES if m == model]
        home = homes[seq // len(MODELS) % len(homes)]
        fields: dict[str, Any] = {"outcome": "ok", "cluster": home, "weights": "resident"}
        fields |= {"t_sent": t, "t_first_byte": t + 10 * MS, "t_done": t + 20 * MS}
        op = Op(source=LOAD, process="load-0", kind="chat", t_intended=t, seq=seq, model=model, **fields)
        return self._changed(op)

    def _runner(self) -> list[Op]:
        def event(kind: str, at_s: float, **fields: Any) -> Op:
            t = self.at(at_s)
            made = {"source": RUNNER, "process": "runner", "outcome": "ok", "t_intended": t, "t_sent": t, "t_done": t}
            return Op(**{**made, "kind": kind, **fields})

        signals = {"signals": [{"name": "processes", "ok": True, "seen": "all gone"}]}
        made = [
            event(LOAD_START, -self.baseline_s),
            event(FAULT_INJECT, 0.0, cluster="cobalt"),
            event(FAULT_VERIFIED, 0.2, cluster="cobalt", detail=signals),
            event(LOAD_STOP, self.end_s),
            event(LOAD_DRAINED, self.end_s + 0.1),
            Op(source=CONTROLLER, process="allocator", kind="watched", outcome="ok", t_intended=self.at(-5)),
        ]
        if self.failback_s is not None:
            made.append(event(FAULT_HEAL, self.observed_s, cluster="cobalt"))
            made.append(event(FAULT_HEALED, self.observed_s + 1.0, cluster="cobalt", detail=signals))
        return made

    def _probes(self) -> list[Op]:
        """The cluster prober twice a second, refused from the injection to the heal; the canary 20 times a second."""
        made = []
        for seq, half in enumerate(range(round(-self.baseline_s * 2), round(self.observed_s * 2))):
            t, died = self.at(half / 2), half >= 0
            for kind in (PROBE_DATA, PROBE_API):
                made.append(
                    Op(
                        source=CLUSTER_PROBER,
                        process="prober",
                        kind=kind,
                        cluster="cobalt",
                        outcome="fail" if died else "ok",
                        error="refused" if died else "",
                        seq=seq,
                        t_intended=t,
                        t_sent=t,
                        t_done=t + MS,
                    )
                )
        return [*made, *self._canary()]

    def _canary(self) -> list[Op]:
        """New connections meet what the load meets."""
        made = []
        for seq in range(round((self.baseline_s + self.end_s) * 20)):
            t = self.at(-self.baseline_s + seq / 20)
            fields: dict[str, Any] = {"t_sent": t, "t_first_byte": t + 10 * MS, "t_done": t + 20 * MS}
            op = Op(source=CANARY, process="probers", kind=PROBE_ENTRY, t_intended=t, seq=seq, outcome="ok",
                    model=MODELS[seq % len(MODELS)], **fields)  # fmt: skip
            made.append(self._changed(op))
        return made

    def _changed(self, op: Op) -> Op:
        for chosen, change in self.changes:
            if chosen(op):
                op = msgspec.structs.replace(op, **change)
        return op


@pytest.fixture(scope="session")
def script() -> Script:
    """10 s of baseline, 30 s of fault, 10 s of failback at 120 rps; nothing fails until told. Immutable."""
    return Script()


Objective = Callable[..., ObjectiveSpec]


@pytest.fixture(scope="session")
def objective() -> Objective:
    """Makes an objective with sensible defaults."""
    return make_objective


def make_objective(indicator: str, limit: float = 10.0, **fields: Any) -> ObjectiveSpec:
    """An objective with sensible defaults."""
    given: dict[str, Any] = {"name": indicator, "indicator": indicator, "scope": "fleet", "window": "fault"}
    given |= {"limit": limit, "unit": "s"}
    return ObjectiveSpec(**(given | fields))
