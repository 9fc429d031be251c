"""The seams of an environment: what the harness needs of a fleet and of each cluster in it.

``local``, ``kind`` and ``contexts`` implement these. The harness observes and injects; it never places anything.
Controls are small capability Protocols: an environment that lacks one simply does not implement it, and ``plan``
refuses a drill that needs it. All methods are synchronous, bounded in time, and may be called from any thread;
``watch`` blocks until its stop event is set.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from history.op import Op

if TYPE_CHECKING:  # a pod imports this package at its start and needs none of them
    from history.records import ClusterFacts, FleetFacts, Placement, Signal, Target

Emit = Callable[[Op], None]
"""Takes an op for the history, stamped on receipt."""

Say = Callable[[str], None]
"""Takes one line of progress for people."""


@dataclass(frozen=True)
class Reachability:
    """What a cluster answers right now: its API, and each of its nodes by name. ``detail`` is for people."""

    api: bool
    nodes: dict[str, bool]
    detail: str = ""


@runtime_checkable
class Cluster(Protocol):
    """One failure domain, whatever the environment."""

    @property
    def name(self) -> str: ...

    def opted_in(self) -> str:
        """The marker by which its owner allows drills on it, as it stands now; "" = none, and no drill touches it."""
        ...

    def describe(self) -> ClusterFacts:
        """Nodes, GPUs and addresses; known also while the cluster is down."""
        ...

    def reachable(self) -> Reachability:
        """Asks the API and every node now; takes at most about 1 s."""
        ...

    def placements(self) -> tuple[Placement, ...]:
        """Where replicas are bound now, and whether each is ready; ``FleetError`` when the API does not answer."""
        ...

    def watch(self, emit: Emit, stop: threading.Event) -> None:
        """List, then watch: emits observer ops of replicas, stamped on receipt; ``WATCH_GAP`` after each gap."""
        ...


@runtime_checkable
class PowerControl(Protocol):
    """Power loss: everything in the cluster dies at once, without goodbye."""

    @property
    def signatures(self) -> tuple[str, ...]:
        """Ways a client can experience it here: ``refused``, ``black-hole``, ``unreachable``; first is the default."""
        ...

    def power_off(self, signature: str) -> None:
        """Returns when the kill was issued to everything; idempotent."""
        ...

    def verify_power_off(self) -> tuple[Signal, ...]:
        """Independent signals (processes gone, API dead, data plane dead), each asked now."""
        ...

    def power_on(self) -> None:
        """Starts the cluster again, empty; idempotent. Returns when start was issued."""
        ...

    def verify_power_on(self) -> tuple[Signal, ...]:
        """API ready, every node ready, GPUs allocatable as declared; each asked now."""
        ...


@runtime_checkable
class FreezeControl(Protocol):
    """Freeze: everything stops and keeps its memory and its sockets; connections open and never answer."""

    def freeze(self) -> None: ...

    def verify_frozen(self) -> tuple[Signal, ...]: ...

    def thaw(self) -> None: ...

    def verify_thawed(self) -> tuple[Signal, ...]: ...


@runtime_checkable
class PartitionControl(Protocol):
    """Partition: nothing passes between the cluster and the rest, either way; inside, it lives and serves on."""

    def cut_off(self) -> None: ...

    def verify_cut_off(self) -> tuple[Signal, ...]: ...

    def reconnect(self) -> None: ...

    def verify_reconnected(self) -> tuple[Signal, ...]: ...


@runtime_checkable
class CableControl(Protocol):
    """Cable pull: every node of the cluster runs on without a network."""

    def pull_cables(self) -> None: ...

    def verify_cables_pulled(self) -> tuple[Signal, ...]: ...

    def plug_in(self) -> None:
        """Each node gets its address back."""
        ...

    def verify_plugged_in(self) -> tuple[Signal, ...]: ...


@runtime_checkable
class ControlPlaneControl(Protocol):
    """Control-plane cut: the cluster's API is gone; what runs on its nodes runs and serves on."""

    def cut_control_plane(self) -> None: ...

    def verify_control_plane_cut(self) -> tuple[Signal, ...]:
        """The API silent *and* every node's data plane answering, each asked now."""
        ...

    def mend_control_plane(self) -> None: ...

    def verify_control_plane_mended(self) -> tuple[Signal, ...]: ...


@runtime_checkable
class RebuildControl(Protocol):
    """Destruction: the cluster is deleted with all it held; ``rebuild`` provisions a new one of the same name."""

    def destroy(self) -> None: ...

    def verify_destroyed(self) -> tuple[Signal, ...]: ...

    def rebuild(self) -> None:
        """Returns when provisioning has begun; idempotent."""
        ...

    def verify_rebuilt(self) -> tuple[Signal, ...]:
        """A signal a stage, in order (api, nodes, gpus, in kind agents); the runner records when each was first ok."""
        ...


@runtime_checkable
class TrafficControl(Protocol):
    """Gradual return: how much of the traffic that it could take a cluster is given by the entry point."""

    def set_traffic_share(self, share: float) -> None:
        """1: all that it could take; 0: none; idempotent. ``FaultError`` when the entry point does not take it."""
        ...

    def traffic_share(self) -> float: ...


@runtime_checkable
class RestorationControl(Protocol):
    """What people do to a cluster while they restore it, stage by stage."""

    def hold(self, held: bool) -> None:
        """While held, the controller does not take the cluster for returned, whatever its API answers."""
        ...

    def served(self) -> tuple[str, ...]:
        """``apiVersion/kind`` of everything that its API serves now; ``FleetError`` when it does not answer."""
        ...

    def upgrade(self, version: str) -> str:
        """Asks for that version, newer or older: "" when it was taken, else the API's refusal."""
        ...


@runtime_checkable
class StoreControl(Protocol):
    """Faults of a weight store, which stands outside every cluster: a capability of the fleet."""

    def brown_out(self, store: str, factor: float) -> None:
        """Egress drops to ``factor`` of what was declared."""
        ...

    def corrupt(self, store: str) -> None:
        """Every object that it sends from now on has a wrong byte."""
        ...

    def verify_store(self, store: str, factor: float, corrupt: bool) -> tuple[Signal, ...]:
        """Does the store do that now? By what it says and by what it sends."""
        ...

    def mend_store(self, store: str) -> None:
        """As declared again; idempotent."""
        ...


class Controller(Protocol):
    """Adapter to whatever re-allocates models: supplies only *detected*, *decided* and their like."""

    def watch(self, emit: Emit, stop: threading.Event) -> None:
        """Emits controller ops, stamped on receipt, until ``stop`` is set."""
        ...


@runtime_checkable
class Leftovers(Protocol):
    """A fleet that can leave something behind when the harness is killed."""

    def leftovers(self) -> dict[str, Any]:
        """Facts (JSON) by which the environment's ``restore_leftovers`` heals it; more of them once it has started."""
        ...


class Fleet(Protocol):
    """The running fleet of one run."""

    @property
    def environment(self) -> str: ...

    @property
    def clusters(self) -> tuple[Cluster, ...]: ...

    @property
    def controller(self) -> Controller | None: ...

    @property
    def prometheus_url(self) -> str | None:
        """None where no Prometheus could be started; ``prometheus_absent`` then says why."""
        ...

    @property
    def prometheus_absent(self) -> str: ...

    def start(self, say: Say) -> None:
        """Brings everything up and waits until every placed replica is ready; ``FleetError`` with the culprit's log."""
        ...

    def facts(self) -> FleetFacts: ...

    def target(self) -> Target: ...

    def died(self) -> tuple[str, ...]:
        """Names of processes outside every cluster (gateway, store, allocator, …) that died by themselves."""
        ...

    def stop(self) -> None:
        """Ends every process and removes every temporary file of this fleet; idempotent, never raises for the dead."""
        ...
