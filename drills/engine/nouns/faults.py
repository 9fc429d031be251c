"""Faults: what is done to a cluster or a weight store, how that is verified, and how it is undone.

A fault is a value in a drill script; the runner hands it its live subject. It asks one control of the environment
(``fleet.protocols``); an environment without it is refused by ``plan``. Never trusted until verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from drills.engine.nouns.located import Located, Problem
from fleet.protocols import (
    CableControl,
    ControlPlaneControl,
    FreezeControl,
    PartitionControl,
    PowerControl,
    RebuildControl,
    StoreControl,
)
from fleet.spec import FleetSpec
from history.errors import FaultError, meant
from history.records import FaultMark, Signal


@dataclass(frozen=True)
class Fault(Located):
    """Inject / verify / heal, plus how to draw it. ``heal`` is safe to call twice.

    A kind of fault says which control it asks, what of it for each of the four, and its words. The subject that the
    methods get is the live ``Cluster`` (or the live ``Fleet``, for a weight store); ``mark`` may get None before a run.
    """

    target: str
    """The cluster or weight store that is hurt, and that ``Restore`` names."""

    control: ClassVar[type]
    asks: ClassVar[tuple[str, str, str, str]]
    """What the control is asked: to inject, to verify, to heal, to verify that it is healed."""
    lacks: ClassVar[str]
    """What an environment without the control cannot do; ``{}`` is the target."""
    clients_see: ClassVar[str]
    label: ClassVar[str]

    @property
    def cluster(self) -> str:
        """The victim; "" for a fault outside every cluster."""
        return self.target

    def mark(self, subject: Any, /) -> FaultMark:
        """How pages draw it, with the signature that this subject will use."""
        return FaultMark(type(self).__name__, self.cluster, self.clients_see, self.label.format(self.target))

    def unsupported(self, subject: Any, /) -> str:
        """Empty, or why this environment cannot do it."""
        return "" if isinstance(subject, self.control) else "this environment cannot " + self.lacks.format(self.target)

    def inject(self, subject: Any, /) -> None:
        """Does it; returns when it was issued."""
        self._ask(subject, 0)

    def verify(self, subject: Any, /) -> tuple[Signal, ...]:
        """Independent signals that it took effect, each asked now."""
        return self._ask(subject, 1)

    def heal(self, subject: Any, /) -> None:
        """Undoes it."""
        self._ask(subject, 2)

    def verify_healed(self, subject: Any, /) -> tuple[Signal, ...]:
        """Independent signals that it is undone, each asked now."""
        return self._ask(subject, 3)

    def problems(self, spec: FleetSpec) -> list[Problem]:
        """Mistakes that can be seen without a running fleet."""
        what, names = "cluster", [cluster.name for cluster in spec.clusters]
        if not self.cluster:
            what, names = "weight store", [store.name for store in spec.stores]
        if self.target in names:
            return []
        it_has = f"{meant(self.target, names)}it has {', '.join(names)}"
        return [self.problem(f"no {what} {self.target!r} in the fleet; {it_has}")]

    def _ask(self, subject: Any, which: int, *arguments: Any) -> tuple[Signal, ...]:
        if lacking := self.unsupported(subject):
            raise FaultError(lacking, hint="run `blackstart plan` first")
        answer: tuple[Signal, ...] = getattr(subject, self.asks[which])(*arguments)
        return answer


@dataclass(frozen=True)
class PowerLoss(Fault):
    """The whole cluster dies at once, without goodbye. ``signature``: how clients experience it
    (``refused``, ``black-hole``, ``unreachable``); empty = the environment's own."""

    signature: str = ""

    control = PowerControl
    asks = ("power_off", "verify_power_off", "power_on", "verify_power_on")
    lacks = "cut the power of {!r}"
    label = "{} lost power"

    def mark(self, subject: Any, /) -> FaultMark:
        own = subject.signatures[0] if isinstance(subject, PowerControl) else ""
        return FaultMark("PowerLoss", self.cluster, self.signature or own, self.label.format(self.cluster))

    def unsupported(self, subject: Any, /) -> str:
        if isinstance(subject, PowerControl) and self.signature and self.signature not in subject.signatures:
            return (
                f"signature {self.signature!r} is not possible here; possible: {', '.join(subject.signatures)} "
                "(a black hole needs root and a working iptables on Linux)"
            )
        return super().unsupported(subject)

    def inject(self, subject: Any, /) -> None:
        self._ask(subject, 0, self.mark(subject).signature)


@dataclass(frozen=True)
class Freeze(Fault):
    """Everything in the cluster stops and keeps its sockets: connections open, answers never come."""

    control = FreezeControl
    asks = ("freeze", "verify_frozen", "thaw", "verify_thawed")
    lacks = "freeze {!r}"
    clients_see = "hang"
    label = "{} froze"


@dataclass(frozen=True)
class Partition(Fault):
    """Cut off but alive: no packet passes either way; inside, the cluster thinks that it serves."""

    control = PartitionControl
    asks = ("cut_off", "verify_cut_off", "reconnect", "verify_reconnected")
    lacks = "cut {!r} off and let it live on; Kubernetes can: --env kind"
    clients_see = "black-hole"
    label = "{} was cut off"


@dataclass(frozen=True)
class CablePull(Fault):
    """Every node of the cluster loses its network cable: it runs on, and reaches nobody, its own nodes neither."""

    control = CableControl
    asks = ("pull_cables", "verify_cables_pulled", "plug_in", "verify_plugged_in")
    lacks = "pull the cables of {!r}; Kubernetes can: --env kind"
    clients_see = "unreachable"
    label = "the cables of {} were pulled"


@dataclass(frozen=True)
class ControlPlaneCut(Fault):
    """The cluster's API is gone while its data plane serves on."""

    control = ControlPlaneControl
    asks = ("cut_control_plane", "verify_control_plane_cut", "mend_control_plane", "verify_control_plane_mended")
    lacks = "stop the API of {!r} alone; Kubernetes can: --env kind"
    clients_see = "api-gone"
    label = "{} lost its control plane"


@dataclass(frozen=True)
class Destroy(Fault):
    """The cluster is deleted with all it held; ``Restore`` provisions a new one of the same name, stage by stage.

    ``refused``: declared that a lock refuses it; verified when it does and the cluster serves on.
    """

    refused: bool = False

    control = RebuildControl
    asks = ("destroy", "verify_destroyed", "rebuild", "verify_rebuilt")
    lacks = "delete {!r} and build it anew"
    clients_see = "refused"
    label = "{} was destroyed"

    def mark(self, subject: Any, /) -> FaultMark:
        if not self.refused:
            return super().mark(subject)
        return FaultMark("Destroy", self.cluster, "none", f"{self.cluster} was not destroyed: it is locked")

    def inject(self, subject: Any, /) -> None:
        try:
            self._ask(subject, 0)
        except FaultError:
            if not self.refused:
                raise

    def verify(self, subject: Any, /) -> tuple[Signal, ...]:
        return super().verify_healed(subject) if self.refused else super().verify(subject)


@dataclass(frozen=True)
class Noop(Fault):
    """Touches nothing: proves that a drill in which nothing happened ends unknown."""

    control = object

    def mark(self, subject: Any, /) -> FaultMark:
        return FaultMark("Noop", self.cluster, "none", "nothing was done", noop=True)

    def _ask(self, subject: Any, which: int, *arguments: Any) -> tuple[Signal, ...]:
        return (Signal("touched", True, "nothing, as declared"),)


@dataclass(frozen=True)
class _StoreFault(Fault):
    """A fault of a weight store, which stands outside every cluster."""

    control = StoreControl
    lacks = "touch the weight store {!r}; the environment local can"

    @property
    def cluster(self) -> str:
        return ""

    def heal(self, subject: Any, /) -> None:
        self._ask(subject, 2, self.target)

    def verify_healed(self, subject: Any, /) -> tuple[Signal, ...]:
        return self._ask(subject, 3, self.target, 1.0, False)


@dataclass(frozen=True)
class WeightStoreBrownout(_StoreFault):
    """The store's egress drops to ``factor`` of what was declared; it answers, slowly, and 503 past its queue."""

    factor: float = 0.1

    asks = ("brown_out", "verify_store", "mend_store", "verify_store")

    def mark(self, subject: Any, /) -> FaultMark:
        return FaultMark("WeightStoreBrownout", "", "slow", f"egress of {self.target} fell to {self.factor:.0%}")

    def inject(self, subject: Any, /) -> None:
        self._ask(subject, 0, self.target, self.factor)

    def verify(self, subject: Any, /) -> tuple[Signal, ...]:
        return self._ask(subject, 1, self.target, self.factor, False)


@dataclass(frozen=True)
class CorruptWeights(_StoreFault):
    """Every object that the store sends has a wrong byte, until it is mended: the account's copies rotted."""

    asks = ("corrupt", "verify_store", "mend_store", "verify_store")
    clients_see = "corrupt"
    label = "the objects of {} rotted"

    def inject(self, subject: Any, /) -> None:
        self._ask(subject, 0, self.target)

    def verify(self, subject: Any, /) -> tuple[Signal, ...]:
        return self._ask(subject, 1, self.target, 1.0, True)
