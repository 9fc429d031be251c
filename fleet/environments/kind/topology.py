"""``Topology``: the names, subnets and machines of a fleet of kind clusters, worked out from its description.

Pure. A node of the fleet's description is a node container; without ``small`` each cluster has one more, its control
plane. A cluster of one node is that node and its control plane in one container, as all are with ``small``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from fleet.spec import ClusterSpec, FleetSpec, NodeSpec
from history.errors import UsageError

NETWORK: Final = "blackstart"
"""The Docker network of the fleet: its own, so that addresses can be kept and everything can be taken away."""
NAMESPACE: Final = "blackstart"
DOMAIN: Final = "blackstart.dev"
NODE_LABEL: Final = f"{DOMAIN}/node"
REPLICA_LABEL: Final = f"{DOMAIN}/replica"
MODEL_LABEL: Final = f"{DOMAIN}/model"
MARKER_DIR: Final = "/blackstart"
"""Where a node container carries the fleet's marker (a bind mount): by it a cluster is known to be ours."""
API_PORT: Final = 6443
AGENT_PORT: Final = 7070
MOST_CLUSTERS: Final = 50


@dataclass(frozen=True)
class Machine:
    """A GPU node: its name in the fleet's description, and the container that it is."""

    name: str
    container: str
    gpus: int
    cache_bytes: int


@dataclass(frozen=True)
class ClusterTopology:
    """One kind cluster. ``combined``: its one machine is its control plane too."""

    name: str
    kind_name: str
    pod_subnet: str
    service_subnet: str
    machines: tuple[Machine, ...]
    combined: bool

    @property
    def control_plane(self) -> str:
        """The container of the control plane."""
        return f"{self.kind_name}-control-plane"

    @property
    def containers(self) -> tuple[str, ...]:
        """All its containers, the control plane first."""
        rest = tuple(m.container for m in self.machines if m.container != self.control_plane)
        return (self.control_plane, *rest)

    @property
    def node_names(self) -> dict[str, str]:
        """Container -> name in the fleet's description, of its GPU nodes."""
        return {machine.container: machine.name for machine in self.machines}


def smaller(spec: FleetSpec) -> FleetSpec:
    """The same fleet with one node a cluster, which has all the GPUs and all the cache of the cluster."""

    def merged(cluster: ClusterSpec) -> ClusterSpec:
        first, cache = cluster.nodes[0], sum(node.cache_bytes for node in cluster.nodes)
        return replace(cluster, nodes=(NodeSpec(first.name, cluster.gpus, cache),))

    return replace(spec, clusters=tuple(merged(cluster) for cluster in spec.clusters))


def topology(spec: FleetSpec) -> tuple[ClusterTopology, ...]:
    """The clusters of ``spec``, in its order; ``UsageError`` when there are more than subnets."""
    if len(spec.clusters) > MOST_CLUSTERS:
        raise UsageError(
            f"fleet {spec.name!r} has {len(spec.clusters)} clusters; kind fleets have at most {MOST_CLUSTERS}",
            hint="each cluster has subnets of its own; use the environment local for larger fleets",
        )
    return tuple(_cluster(cluster, number) for number, cluster in enumerate(spec.clusters, 1))


def _cluster(cluster: ClusterSpec, number: int) -> ClusterTopology:
    kind_name = f"{NETWORK}-{cluster.name}"
    combined = len(cluster.nodes) == 1
    machines = []
    for index, node in enumerate(cluster.nodes, 1):
        role = "control-plane" if combined else "worker" if index == 1 else f"worker{index}"
        machines.append(Machine(node.name, f"{kind_name}-{role}", node.gpus, node.cache_bytes))
    return ClusterTopology(
        name=cluster.name,
        kind_name=kind_name,
        pod_subnet=f"10.{100 + number}.0.0/16",
        service_subnet=f"10.{160 + number}.0.0/16",
        machines=tuple(machines),
        combined=combined,
    )
