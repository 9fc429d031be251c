"""``Fault``: the seam of all faults: what the runner calls, and mistakes that can be seen without a running fleet."""

from __future__ import annotations

from typing import Any, Protocol

from drills.engine.nouns.located import Problem, Where
from fleet.spec import FleetSpec
from history.records import FaultMark, Signal


class Fault(Protocol):
    """Inject / verify / heal, plus how to draw it.

    ``cluster``: the victim; "" for a fault outside every cluster, whose ``target`` is then a weight store. The runner
    hands each method its subject: the live ``Cluster`` of that name, or the live ``Fleet``.
    """

    @property
    def cluster(self) -> str: ...

    @property
    def target(self) -> str:
        """What ``Restore`` names: the cluster or the store."""
        ...

    @property
    def where(self) -> Where: ...

    def mark(self, subject: Any, /) -> FaultMark:
        """How pages draw it; the signature is the one that this subject will use. ``None``: none is known yet."""
        ...

    def unsupported(self, subject: Any, /) -> str:
        """Empty, or why this environment cannot do it."""
        ...

    def inject(self, subject: Any, /) -> None: ...

    def verify(self, subject: Any, /) -> tuple[Signal, ...]: ...

    def heal(self, subject: Any, /) -> None: ...

    def verify_healed(self, subject: Any, /) -> tuple[Signal, ...]: ...


def fault_problems(fault: Fault, spec: FleetSpec) -> list[Problem]:
    """Mistakes that can be seen without a running fleet."""
    what, names = "cluster", [cluster.name for cluster in spec.clusters]
    if not fault.cluster:
        what, names = "weight store", [store.name for store in spec.stores]
    if fault.target in names:
        return []
    return [Problem(fault.where, f"no {what} {fault.target!r} in the fleet; it has {', '.join(names)}")]
