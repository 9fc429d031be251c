"""Addresses and configurations of everything outside the clusters of a kind fleet, and of the agents inside.

Pure given the fleet's state; ``lifecycle`` starts what it says. Services that nodes must reach listen on the host's
address in the fleet's own Docker network, the entry point and the controller on loopback.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from fleet.environments.kind.adapter import AdapterConfig
from fleet.environments.kind.host import Service
from fleet.environments.kind.manifests import CACHE
from fleet.environments.kind.state import FleetState, Folder
from fleet.environments.kind.topology import AGENT_PORT, ClusterTopology
from fleet.environments.local.addresses import PLAIN, Ports
from fleet.environments.local.layout import Layout, allocator_config, gateway_config, store_configs
from fleet.prometheus import ScrapeTarget
from fleet.serving.config import AgentConfig
from fleet.spec import FleetSpec

GATEWAY: Final = "gateway"
ALLOCATOR: Final = "allocator"
PROMETHEUS: Final = "prometheus"


def take_ports(spec: FleetSpec, host: str, gateway_port: int) -> dict[str, int]:
    """A free port for each service outside, by its name."""
    ports = Ports()
    found = {GATEWAY: gateway_port or ports.take(PLAIN), ALLOCATOR: ports.take(PLAIN), PROMETHEUS: ports.take(PLAIN)}
    found |= {f"store-{store.name}": ports.take(host) for store in spec.stores}
    return found | {f"adapter-{cluster.name}": ports.take(host) for cluster in spec.clusters}


def adapters(state: FleetState, folder: Folder) -> tuple[AdapterConfig, ...]:
    """One adapter a cluster."""
    return tuple(
        AdapterConfig(
            topology=cluster,
            host=state.host,
            port=state.ports[f"adapter-{cluster.name}"],
            kubeconfig=folder.kubeconfig(cluster.name),
            addresses={name: state.addresses.get(name, "") for name in cluster.containers},
            models=state.spec.models,
            image=state.serving_image,
            logs=folder.logs,
            token=state.token,
        )
        for cluster in state.clusters
    )


def lay_out(state: FleetState, folder: Folder) -> Layout:
    """The services outside, as the environment ``local`` has them; its clusters are the adapters'."""
    apis = tuple((config.topology.name, config.url) for config in adapters(state, folder))
    spec, logs, token = state.spec, folder.logs, state.token
    store_ports = {store.name: state.ports[f"store-{store.name}"] for store in spec.stores}
    gateway = gateway_config(spec, apis, PLAIN, state.ports[GATEWAY], logs, token)
    url = f"http://{PLAIN}:{gateway.port}"
    return Layout(
        stores=store_configs(spec, state.host, store_ports, folder.work, logs, token),
        clusters={},
        networks={},
        gateway=gateway,
        allocator=allocator_config(spec, apis, PLAIN, state.ports[ALLOCATOR], url, logs, token),
        work_dir=folder.work,
        logs=logs,
        token=token,
    )


def agent_configs(state: FleetState, folder: Folder, cluster: ClusterTopology) -> dict[str, AgentConfig]:
    """Container -> its agent's configuration."""
    stores = {store.name: f"http://{store.host}:{store.port}" for store in lay_out(state, folder).stores}
    nearest = tuple(stores[store.name] for store in state.spec.stores_for(cluster.name))
    machines = [(c.name, machine.container) for c in state.clusters for machine in c.machines]
    near = [name for owner, name in machines if owner == cluster.name]
    far = tuple(agent_url(state, name) for owner, name in machines if owner != cluster.name)
    switches = state.spec.switches
    return {
        machine.container: AgentConfig(
            cluster=cluster.name,
            node=machine.name,
            host=state.addresses[machine.container],
            port=AGENT_PORT,
            cache_dir=Path(CACHE),
            cache_bytes=machine.cache_bytes,
            store_urls=nearest,
            peer_urls=tuple(agent_url(state, name) for name in near if name != machine.container),
            far_peer_urls=far,
            peer_fetch=switches.peer_fetch,
            single_flight=switches.single_flight,
            honour_retry_after=switches.honour_retry_after,
        )
        for machine in cluster.machines
    }


def agent_url(state: FleetState, container: str) -> str:
    """Where the agent of a node listens."""
    return f"http://{state.addresses[container]}:{AGENT_PORT}"


def services(state: FleetState, folder: Folder, prometheus_argv: tuple[str, ...] = ()) -> tuple[Service, ...]:
    """Everything that the host process starts."""
    layout = lay_out(state, folder)

    def service(name: str, module: str, config: object) -> Service:
        return Service(name, module, config, folder.logs / f"{name}.out")

    found = [service(f"store-{store.name}", "fleet.serving.store", store) for store in layout.stores]
    for config in adapters(state, folder):
        found.append(service(f"adapter-{config.topology.name}", "fleet.environments.kind.adapter", config))
    found.append(service(GATEWAY, "fleet.serving.gateway", layout.gateway))
    ready = tuple(f"{config.url}/readyz" for config in adapters(state, folder))  # it places by what it sees first
    found.append(replace(service(ALLOCATOR, "fleet.serving.allocator", layout.allocator), after=ready))
    if prometheus_argv:
        found.append(Service(PROMETHEUS, "", None, folder.logs / "prometheus.out", prometheus_argv))
    return tuple(found)


def scrape_targets(state: FleetState, folder: Folder) -> tuple[tuple[ScrapeTarget, ...], tuple[str, ...]]:
    """What Prometheus is told beforehand, and the URLs where it hears of the rest."""
    found, _ = lay_out(state, folder).scrape_targets()
    configs = adapters(state, folder)
    planes = (ScrapeTarget(f"{one.host}:{one.port}", "control-plane", one.topology.name) for one in configs)
    return (*found, *planes), tuple(f"{config.url}/targets" for config in configs)
