"""``Load`` and ``Scope``: the load ops of a run, judged good, bad or unknown, and the parts of them that SLOs name.

Made once a run by ``analyze`` and ``live``. Holds arrays only; decides nothing but good, bad and unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from assertions.windows import Edges
from history.clock import NS_PER_MS, NS_PER_S
from history.op import NEVER, RUN_END, RUNNER
from history.reader import Requests, Run

GOOD, BAD, UNKNOWN = 0, 1, 2
"""State of a load op. good = ok and within ``good_within_ms`` of its intended time (DESIGN 3.4)."""

MODEL_RATIO, FLEET_RATIO = 0.90, 0.99
"""The good ratio that a recovery must prove where the drill promises none of its own."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Load:
    """Load ops in columns, one entry a scheduled send, sorted by intended time."""

    ops: Requests
    state: NDArray[np.int8]
    ok: Bools
    struck: Bools
    """In flight at the injection and not good: casualties of the fault, though intended before it."""
    edges: Edges

    def __len__(self) -> int:
        return len(self.state)

    @cached_property
    def good(self) -> Bools:
        """True for each op that is good."""
        return np.equal(self.state, GOOD)

    @cached_property
    def bad(self) -> Bools:
        """True for each op that is bad."""
        return np.equal(self.state, BAD)

    @cached_property
    def unknown(self) -> Bools:
        """True for each op that is neither."""
        return np.equal(self.state, UNKNOWN)

    @cached_property
    def x_s(self) -> NDArray[np.float64]:
        """Intended times in seconds since the injection call."""
        return (self.ops.t_intended - self.edges.zero) / NS_PER_S

    @cached_property
    def degraded(self) -> Bools:
        """Answered, but by the model's fallback: no good answer, and told apart from failures."""
        answered: Bools = self.ok & (self.ops.fallback.codes != 0)
        return answered

    @cached_property
    def latency_ms(self) -> NDArray[np.float64]:
        """t_done - t_intended in ms; NaN without an end."""
        return np.where(self.ops.t_done == NEVER, np.nan, (self.ops.t_done - self.ops.t_intended) / NS_PER_MS)

    def in_window(self, window: str) -> Bools:
        """True for each op of ``drill``, ``baseline``, ``fault`` or ``failback``, by intended time.

        An op that was in flight at the injection and did not turn out good belongs to the fault, not to the baseline
        (docs/decisions/0001). All false where the run has no such window.
        """
        bounds = self.edges.bounds_ns(window)
        if bounds is None:
            return np.zeros(len(self.ops), np.bool_)
        if window == "drill":
            return np.ones(len(self.ops), np.bool_)
        inside: Bools = (self.ops.t_intended >= bounds[0]) & (self.ops.t_intended < bounds[1])
        if window == "baseline":
            return inside & ~self.struck
        return inside | self.struck if window == "fault" else inside

    def between(self, start_ns: int, end_ns: int) -> Bools:
        """True for each op intended in [start, end)."""
        return (self.ops.t_intended >= start_ns) & (self.ops.t_intended < end_ns)


def known_until(run: Run) -> int | None:
    """The harness's last sign of life, where it was killed: the fleet goes with it, and what failed later says nothing
    of the fleet. None where it ended by itself, or where its header does not tell."""
    if not run.header.says_end or run.history.of_kind(RUN_END):
        return None
    return max((op.t_done for op in run.history.events if op.source == RUNNER), default=NEVER)


def judge(run: Run, edges: Edges, until: int | None = None) -> Load:
    """Every load op -> good, bad or unknown. An answer that is late, or that the model's fallback gave, is bad.

    An op that says ok and whose times contradict it (done before it was sent or due) is unknown: a damaged record. So
    is every op that ended after ``until``.
    """
    ops = run.load
    order = np.argsort(ops.t_intended, kind="stable")
    if not np.array_equal(order, np.arange(len(ops))):
        ops = ops.take(order)
    said_ok, said_fail = ops.outcome.where("ok"), ops.outcome.where("fail")
    ok = said_ok & (ops.t_done >= ops.t_intended) & (ops.t_done >= ops.t_sent) & (ops.t_sent >= 0)
    within_ns = round(run.header.load.good_within_ms * NS_PER_MS)
    late = ok & ((ops.t_done - ops.t_intended > within_ns) | (ops.fallback.codes != 0))
    state = np.where(ok & ~late, GOOD, np.where(said_fail | late, BAD, UNKNOWN)).astype(np.int8)
    if until is not None:
        state[ops.t_done > until] = UNKNOWN
    struck = np.zeros(len(ops), np.bool_)
    if edges.injected is not None:
        timeout_ns = round(run.header.load.total_timeout_s * NS_PER_S)
        last_ns = np.where(ops.t_done >= 0, ops.t_done, ops.t_intended + timeout_ns)
        struck = (ops.t_intended < edges.injected) & (last_ns >= edges.injected) & (state != GOOD)
    return Load(ops, state, ok, struck, edges)


@dataclass(frozen=True)
class Scope:
    """A named part of the load: ``label`` as in results, ``models`` its members."""

    label: str
    models: tuple[str, ...]
    served_by: str = ""

    def rows(self, load: Load) -> Rows:
        """Indices of its ops, in intended order."""
        if self.served_by:
            return np.flatnonzero(load.ops.cluster.where(self.served_by))
        if self.label == "fleet":
            return np.arange(len(load.ops))
        codes = [load.ops.model.code(name) for name in self.models]
        return np.flatnonzero(np.isin(load.ops.model.codes, [code for code in codes if code >= 0]))
