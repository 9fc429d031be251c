"""``Layout``: every address, directory and configuration of a local fleet, worked out before anything starts.

Pure given its addresses; ``LocalFleet`` makes it once and starts processes from it. It holds no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet.environments.local.addresses import Addresses, Ports
from fleet.environments.local.control import ControlConfig, NodeConfig
from fleet.placement import placements_planned
from fleet.prometheus import ScrapeTarget
from fleet.protocols import Cluster
from fleet.serving.config import AgentConfig, AllocatorConfig, GatewayConfig, StoreConfig
from fleet.serving.routing import owners
from fleet.spec import ClusterSpec, FleetSpec
from history.records import FleetFacts

PIECE_BYTES = 1024 * 1024
"""Weights are cut into objects of this size."""


@dataclass(frozen=True)
class Layout:
    """See the module docstring. ``clusters`` and ``networks`` are by cluster name."""

    stores: tuple[StoreConfig, ...]
    clusters: Mapping[str, ControlConfig]
    networks: Mapping[str, str]
    gateway: GatewayConfig
    allocator: AllocatorConfig
    work_dir: Path
    logs: Path
    token: str = field(repr=False)
    """What every request that changes the state of a service must bring; this run's own."""

    @property
    def gateway_url(self) -> str:
        """The entry point of the fleet."""
        return f"http://{self.gateway.host}:{self.gateway.port}"

    @property
    def allocator_url(self) -> str:
        """The controller's base URL."""
        return f"http://{self.allocator.host}:{self.allocator.port}"

    def scrape_targets(self) -> tuple[tuple[ScrapeTarget, ...], tuple[str, ...]]:
        """What Prometheus is told beforehand, and the URLs at which each cluster lists its model servers."""
        found = [ScrapeTarget(f"{store.host}:{store.port}", "store") for store in self.stores]
        found.append(ScrapeTarget(f"{self.gateway.host}:{self.gateway.port}", "gateway"))
        found.append(ScrapeTarget(f"{self.allocator.host}:{self.allocator.port}", "allocator"))
        for name, config in self.clusters.items():
            found.append(ScrapeTarget(f"{config.host}:{config.port}", "control-plane", name))
            for node in config.nodes:
                found.append(ScrapeTarget(f"{node.agent.host}:{node.agent.port}", "agent", name, node.name))
        return tuple(found), tuple(f"{config.url}/targets" for config in self.clusters.values())

    @property
    def weights(self) -> Path:
        """Where the stores' objects are."""
        return self.work_dir / "weights"


def fleet_facts(spec: FleetSpec, clusters: Sequence[Cluster], *more: tuple[str, str]) -> FleetFacts:
    """A fleet as it is now; ``FleetError`` when a cluster does not answer. ``more``: besides its switches."""
    return FleetFacts(
        name=spec.name,
        clusters=tuple(cluster.describe() for cluster in clusters),
        models=spec.model_facts(),
        placements=tuple(placement for cluster in clusters for placement in cluster.placements()),
        gateway_timeouts=spec.switches.gateway_timeouts,
        switches=(*spec.switches.to_facts(), *more),
    )


def lay_out(
    spec: FleetSpec,
    addresses: Addresses,
    work_dir: Path,
    logs: Path,
    token: str,
    *,
    gateway_host: str,
    gateway_port: int,
) -> Layout:
    """The layout of ``spec`` on ``addresses``; ports are free as it looks, and stay the same over power cycles."""
    outside, ports = addresses.outside, Ports()
    stores = store_configs(
        spec, outside, {store.name: ports.take(outside) for store in spec.stores}, work_dir, logs, token
    )
    store_urls = {store.name: f"http://{store.host}:{store.port}" for store in stores}
    agent_ports = {
        node.name: (addresses.node(c, n), ports.take(addresses.node(c, n)))
        for c, cluster in enumerate(spec.clusters, 1)
        for n, node in enumerate(cluster.nodes, 1)
    }
    clusters = {}
    for number, cluster in enumerate(spec.clusters, 1):
        nearest = tuple(store_urls[store.name] for store in spec.stores_for(cluster.name))
        host = addresses.control(number)
        clusters[cluster.name] = ControlConfig(
            cluster=cluster.name,
            host=host,
            port=ports.take(host),
            nodes=_nodes(spec, cluster, agent_ports, nearest, work_dir, logs / cluster.name, token),
            models=spec.models,
            logs=logs / cluster.name,
            token=token,
        )
    apis = tuple((name, config.url) for name, config in clusters.items())
    host = gateway_host or outside
    gateway = gateway_config(spec, apis, host, gateway_port or ports.take(host), logs, token)
    gateway_url = f"http://{gateway.host}:{gateway.port}"
    return Layout(
        stores=stores,
        clusters=clusters,
        networks={cluster.name: addresses.network(i) for i, cluster in enumerate(spec.clusters, 1)},
        gateway=gateway,
        allocator=allocator_config(spec, apis, outside, ports.take(outside), gateway_url, logs, token),
        work_dir=work_dir,
        logs=logs,
        token=token,
    )


def store_configs(
    spec: FleetSpec, host: str, ports: Mapping[str, int], work_dir: Path, logs: Path, token: str
) -> tuple[StoreConfig, ...]:
    """The weight stores, all on one host; ``ports`` by store."""
    return tuple(
        StoreConfig(
            name=store.name,
            host=host,
            port=ports[store.name],
            root=work_dir / "weights",
            egress_bytes_s=store.egress_bytes_s,
            cluster=store.cluster,
            cross_cluster_bytes_s=spec.link_bytes_s(store.name),
            max_queue=store.max_queue,
            log_dir=logs,
            token=token,
        )
        for store in spec.stores
    )


def _nodes(
    spec: FleetSpec,
    cluster: ClusterSpec,
    agents: Mapping[str, tuple[str, int]],
    store_urls: tuple[str, ...],
    work_dir: Path,
    logs: Path,
    token: str,
) -> tuple[NodeConfig, ...]:
    own = [node.name for node in cluster.nodes]
    others = [node.name for c in spec.clusters if c.name != cluster.name for node in c.nodes]
    seeds = _seeds(spec)
    nodes = []
    for node in cluster.nodes:
        host, port = agents[node.name]
        near, far = (
            tuple(f"http://{agents[name][0]}:{agents[name][1]}" for name in names if name != node.name)
            for names in (own, others)
        )
        agent = AgentConfig(
            cluster=cluster.name,
            node=node.name,
            host=host,
            port=port,
            cache_dir=work_dir / "cache" / cluster.name / node.name,
            cache_bytes=node.cache_bytes,
            store_urls=store_urls,
            peer_urls=near,
            far_peer_urls=far,
            peer_fetch=spec.switches.peer_fetch,
            single_flight=spec.switches.single_flight,
            honour_retry_after=spec.switches.honour_retry_after,
            seeds=seeds.get(node.name, ()),
            seed_root=work_dir / "weights",
            log_dir=logs,
            token=token,
        )
        nodes.append(NodeConfig(node.name, host, node.gpus, agent))
    return tuple(nodes)


def _seeds(spec: FleetSpec) -> dict[str, tuple[str, ...]]:
    """Fine-tunes in the cache of each node at the start: those of its replicas, the most popular last."""
    found: dict[str, list[str]] = {}
    placements = placements_planned(spec) if any(m.fine_tunes for m in spec.models) else ()
    for model in spec.models:
        nodes = {(p.cluster, p.replica): p.node for p in placements if p.model == model.name}
        for fine_tune in reversed(model.pool):
            for owner in owners(fine_tune, list(nodes), model.copies):
                found.setdefault(nodes[owner], []).append(fine_tune)
    return {node: tuple(names) for node, names in found.items()}


def gateway_config(
    spec: FleetSpec, apis: tuple[tuple[str, str], ...], host: str, port: int, logs: Path, token: str
) -> GatewayConfig:
    """The entry point; ``apis``: (cluster, URL of its control plane)."""
    return GatewayConfig(host, port, apis, spec.models, spec.switches, log_dir=logs, token=token)


def allocator_config(
    spec: FleetSpec,
    apis: tuple[tuple[str, str], ...],
    host: str,
    port: int,
    gateway_url: str,
    logs: Path,
    token: str,
) -> AllocatorConfig:
    """The controller; ``apis``: (cluster, URL of its control plane)."""
    return AllocatorConfig(host, port, apis, spec.models, spec.switches, gateway_url, log_dir=logs, token=token)
