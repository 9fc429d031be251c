"""Faults of a cluster: power loss, freeze, partition, control-plane cut, destruction, and none at all.

Each asks one control of the environment (``fleet.protocols``); an environment without it is refused by ``plan``.
"""

from __future__ import annotations

from dataclasses import dataclass

from drills.engine.nouns.located import Located
from fleet.protocols import Cluster, ControlPlaneControl, FreezeControl, PartitionControl, PowerControl, RebuildControl
from history.errors import FaultError
from history.records import FaultMark, Signal


@dataclass(frozen=True)
class _ClusterFault(Located):
    """What all have in common: the cluster that they hit."""

    cluster: str

    @property
    def target(self) -> str:
        return self.cluster


@dataclass(frozen=True)
class PowerLoss(_ClusterFault):
    """The whole cluster dies at once, without goodbye. ``signature``: how clients experience it
    (``refused``, ``black-hole``, ``unreachable``); empty = the environment's own."""

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
class Freeze(_ClusterFault):
    """Everything in the cluster stops and keeps its sockets: connections open, answers never come."""

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
class Partition(_ClusterFault):
    """Cut off but alive: no packet passes either way; inside, the cluster thinks that it serves."""

    def mark(self, cluster: Cluster | None) -> FaultMark:
        return FaultMark("Partition", self.cluster, "black-hole", f"{self.cluster} was cut off")

    def unsupported(self, cluster: Cluster) -> str:
        if isinstance(cluster, PartitionControl):
            return ""
        return f"this environment cannot cut {self.cluster!r} off and let it live on; Kubernetes can: --env kind"

    def inject(self, cluster: Cluster) -> None:
        _partition(cluster).cut_off()

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _partition(cluster).verify_cut_off()

    def heal(self, cluster: Cluster) -> None:
        _partition(cluster).reconnect()

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _partition(cluster).verify_reconnected()


@dataclass(frozen=True)
class ControlPlaneCut(_ClusterFault):
    """The cluster's API is gone while its data plane serves on."""

    def mark(self, cluster: Cluster | None) -> FaultMark:
        return FaultMark("ControlPlaneCut", self.cluster, "api-gone", f"{self.cluster} lost its control plane")

    def unsupported(self, cluster: Cluster) -> str:
        if isinstance(cluster, ControlPlaneControl):
            return ""
        return f"this environment cannot stop the API of {self.cluster!r} alone; Kubernetes can: --env kind"

    def inject(self, cluster: Cluster) -> None:
        _control_plane(cluster).cut_control_plane()

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _control_plane(cluster).verify_control_plane_cut()

    def heal(self, cluster: Cluster) -> None:
        _control_plane(cluster).mend_control_plane()

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _control_plane(cluster).verify_control_plane_mended()


@dataclass(frozen=True)
class Destroy(_ClusterFault):
    """The cluster is deleted with all it held; ``Restore`` provisions a new one of the same name, stage by stage.

    ``refused``: declared that a lock refuses it; verified when it does and the cluster serves on.
    """

    refused: bool = False

    def mark(self, cluster: Cluster | None) -> FaultMark:
        if self.refused:
            return FaultMark("Destroy", self.cluster, "none", f"{self.cluster} was not destroyed: it is locked")
        return FaultMark("Destroy", self.cluster, "refused", f"{self.cluster} was destroyed")

    def unsupported(self, cluster: Cluster) -> str:
        if isinstance(cluster, RebuildControl):
            return ""
        return f"this environment cannot delete {self.cluster!r} and build it anew"

    def inject(self, cluster: Cluster) -> None:
        try:
            _rebuild(cluster).destroy()
        except FaultError:
            if not self.refused:
                raise

    def verify(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _rebuild(cluster).verify_destroyed() if not self.refused else self.verify_healed(cluster)

    def heal(self, cluster: Cluster) -> None:
        _rebuild(cluster).rebuild()

    def verify_healed(self, cluster: Cluster) -> tuple[Signal, ...]:
        return _rebuild(cluster).verify_rebuilt()


@dataclass(frozen=True)
class Noop(_ClusterFault):
    """Touches nothing: proves that a drill in which nothing happened ends unknown."""

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


def _power(cluster: Cluster) -> PowerControl:
    if not isinstance(cluster, PowerControl):
        raise FaultError(f"{cluster.name} has no power control", hint="run `blackstart plan` first")
    return cluster


def _freeze(cluster: Cluster) -> FreezeControl:
    if not isinstance(cluster, FreezeControl):
        raise FaultError(f"{cluster.name} has no freeze control", hint="run `blackstart plan` first")
    return cluster


def _partition(cluster: Cluster) -> PartitionControl:
    if not isinstance(cluster, PartitionControl):
        raise FaultError(f"{cluster.name} has no partition control", hint="run `blackstart plan` first")
    return cluster


def _control_plane(cluster: Cluster) -> ControlPlaneControl:
    if not isinstance(cluster, ControlPlaneControl):
        raise FaultError(f"{cluster.name} has no control over its control plane", hint="run `blackstart plan` first")
    return cluster


def _rebuild(cluster: Cluster) -> RebuildControl:
    if not isinstance(cluster, RebuildControl):
        raise FaultError(f"{cluster.name} has no rebuild control", hint="run `blackstart plan` first")
    return cluster
