"""Faults: what is done to a cluster, how that is verified, and how it is undone. Never trusted until verified.

A fault is a value in a drill script; the runner hands it the running cluster. ``heal`` is safe to call twice.
``PowerLoss``, ``Freeze`` and ``Noop`` are three different ways through one seam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from drills.engine.nouns.located import Located, Problem, Where
from fleet.protocols import Cluster, FreezeControl, PowerControl
from history.errors import FaultError
from history.records import FaultMark, Signal


class Fault(Protocol):
    """Inject / verify / heal, plus how to draw it. All take the live cluster named by ``cluster``."""

    @property
    def cluster(self) -> str: ...

    @property
    def where(self) -> Where: ...

    def mark(self, cluster: Cluster | None) -> FaultMark:
        """How pages draw it; the signature is the one that this cluster will use."""
        ...

    def unsupported(self, cluster: Cluster) -> str:
        """Empty, or why this environment cannot do it."""
        ...

    def inject(self, cluster: Cluster) -> None: ...

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]: ...

    def heal(self, cluster: Cluster) -> None: ...

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]: ...


@dataclass(frozen=True)
class PowerLoss(Located):
    """The whole cluster dies at once, without goodbye. ``signature``: how clients experience it
    (``refused``, ``black-hole``, ``unreachable``); empty = the environment's own."""

    cluster: str
    signature: str = ""

    def mark(self, cluster: Cluster | None) -> FaultMark:
        own = cluster.signatures[0] if isinstance(cluster, PowerControl) else ""
        return FaultMark("PowerLoss", self.cluster, self.signature or own, f"{self.cluster} lost power")

    def unsupported(self, cluster: Cluster) -> str:
        if not isinstance(cluster, PowerControl):
            return f"this environment cannot cut the power of {self.cluster!r}"
        if self.signature and self.signature not in cluster.signatures:
            return (
                f"signature {self.signature!r} is not possible here; possible: {', '.join(cluster.signatures)} "
                "(a black hole needs root and a working iptables on Linux)"
            )
        return ""

    def inject(self, cluster: Cluster) -> None:
        control = _power(cluster)
        control.power_off(self.signature or control.signatures[0])

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _power(cluster).verify_power_off()

    def heal(self, cluster: Cluster) -> None:
        _power(cluster).power_on()

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _power(cluster).verify_power_on()


@dataclass(frozen=True)
class Freeze(Located):
    """Everything in the cluster stops and keeps its sockets: connections open, answers never come."""

    cluster: str

    def mark(self, cluster: Cluster | None) -> FaultMark:
        return FaultMark("Freeze", self.cluster, "hang", f"{self.cluster} froze")

    def unsupported(self, cluster: Cluster) -> str:
        return "" if isinstance(cluster, FreezeControl) else f"this environment cannot freeze {self.cluster!r}"

    def inject(self, cluster: Cluster) -> None:
        _freeze(cluster).freeze()

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _freeze(cluster).verify_frozen()

    def heal(self, cluster: Cluster) -> None:
        _freeze(cluster).thaw()

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _freeze(cluster).verify_thawed()


@dataclass(frozen=True)
class Noop(Located):
    """Touches nothing: proves that a drill in which nothing happened ends unknown."""

    cluster: str

    def mark(self, cluster: Cluster | None) -> FaultMark:
        return FaultMark("Noop", self.cluster, "none", "nothing was done", noop=True)

    def unsupported(self, cluster: Cluster) -> str:
        return ""

    def inject(self, cluster: Cluster) -> None:
        return None

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]:
        return (Signal("touched", True, "nothing, as declared"),)

    def heal(self, cluster: Cluster) -> None:
        return None

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]:
        return (Signal("touched", True, "nothing, as declared"),)


def fault_problems(fault: Fault, clusters: tuple[str, ...]) -> list[Problem]:
    """Mistakes that can be seen without a running fleet."""
    if fault.cluster in clusters:
        return []
    return [Problem(fault.where, f"no cluster {fault.cluster!r} in the fleet; it has {', '.join(clusters)}")]


def _power(cluster: Cluster) -> PowerControl:
    if not isinstance(cluster, PowerControl):
        raise FaultError(f"{cluster.name} has no power control", hint="run `blackstart plan` first")
    return cluster


def _freeze(cluster: Cluster) -> FreezeControl:
    if not isinstance(cluster, FreezeControl):
        raise FaultError(f"{cluster.name} has no freeze control", hint="run `blackstart plan` first")
    return cluster
