"""``Edges``: the instants that cut a run into windows, and which ops belong to which window.

Made once a run from runner events; used by every checker. Never looks at outcomes of objectives, never guesses an
edge that was not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

from history.clock import NS_PER_S
from history.op import FAULT_HEAL, FAULT_INJECT, NEVER
from history.reader import Run, load_bounds

RUN_WINDOWS = ("drill", "baseline", "fault", "failback")
"""Windows that every scope shares; all others are a scope's own."""


@dataclass(frozen=True)
class Edges:
    """Instants of a run in monotonic ns; None where the run has no such instant.

    ``start``/``stop``: the load. ``injected``: the first injection call. ``zero``: what seconds count from, that
    call; without one the start of the load, or of the run. ``healed``: the first restore call after the injection.
    ``victims``: clusters that were hit before that restore (a no-op hits nobody, unless there was nothing else).
    ``heals``: (victim, first restore call after its injection).
    """

    start: int
    stop: int
    zero: int
    injected: int | None
    healed: int | None
    victims: tuple[str, ...]
    heals: tuple[tuple[str, int], ...] = ()
    to_end: bool = False
    """The drill says that recovery may need the restore: the fault window lasts until the load stopped."""

    def heal_of(self, cluster: str) -> int | None:
        """When the restore of a victim was called; None if it never was."""
        return dict(self.heals).get(cluster)

    @property
    def fault_end(self) -> int:
        """The end of the fault window: the restore call, or where the load stopped."""
        return self.stop if self.healed is None or self.to_end else min(self.healed, self.stop)

    def seconds(self, t_ns: int) -> float:
        """Seconds since the injection call."""
        return (int(t_ns) - self.zero) / NS_PER_S

    def since(self, t_ns: int) -> float:
        """The same for what counts from the injection on: never negative."""
        return max(0.0, self.seconds(t_ns))

    def bounds_ns(self, window: str) -> tuple[int, int] | None:
        """[start, end) of ``drill``, ``baseline``, ``fault`` or ``failback``; None where the run has no such window."""
        if self.start == NEVER:
            return None
        if window == "drill":
            return self.start, self.stop
        if window == "baseline":
            return self.start, self.stop if self.injected is None else min(self.injected, self.stop)
        if window == "fault" and self.injected is not None:
            return self.injected, self.fault_end
        if window == "failback" and self.healed is not None:
            return min(self.healed, self.stop), self.stop
        return None


def edges(run: Run) -> Edges:
    """The edges of a run as its runner recorded them."""
    start, stop = load_bounds(run.history)
    injections = run.history.of_kind(FAULT_INJECT)
    injected = injections[0].t_intended if injections else None
    hurt = {op.cluster for op in injections}
    hurt = hurt - {""} or hurt  # a weight store that is mended while a cluster is down ends no fault window
    heals = run.history.of_kind(FAULT_HEAL)
    later = [op.t_intended for op in heals if injected is not None and op.t_intended > injected and op.cluster in hurt]
    healed = min(later, default=None)
    hits = [op for op in injections if op.cluster and (healed is None or op.t_intended < healed)]
    noop = {mark.cluster for mark in run.header.faults if mark.noop}
    hits = [op for op in hits if op.cluster not in noop] or hits
    first = {op.cluster: op.t_intended for op in reversed(hits)}
    calls = {
        op.cluster: op.t_intended for op in reversed(heals) if op.t_intended > first.get(op.cluster, op.t_intended)
    }
    victims, to_end = tuple(dict.fromkeys(op.cluster for op in hits)), run.header.recovery_until == "end"
    zero = injected if injected is not None else run.header.anchor.monotonic_ns if start == NEVER else start
    return Edges(start, stop, zero, injected, healed, victims, tuple(calls.items()), to_end)
