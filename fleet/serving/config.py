"""What each serving process is told at its start: frozen, picklable values, made by the environment.

Whoever starts a process builds one of these and calls the ``run`` of its module (in a forked child, or by hand through
the module's command line). Configs never open, read or check anything. ``token``: the run's own, which every request
that changes state must bring (``serve.token_guard``); it is in no repr, so that no log has it. A field annotated with
a sentence is an option of the command line (``byhand.options``); the value after it is that option's default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fleet.spec import MIB as MIB
from fleet.spec import ModelSpec, Switches

Host = Annotated[str, "Address to listen on.", "127.0.0.1"]
Port = Annotated[int, "Port to listen on."]
Clusters = Annotated[tuple[tuple[str, str], ...], "A cluster's name, and the URL of its control plane (repeat)."]


@dataclass(frozen=True)
class StoreConfig:
    """A weight store: one account with one egress limit, which always counts. ``root`` is what ``make_weights`` filled.

    For an account outside all clusters no link counts as cross-cluster.
    """

    name: Annotated[str, "Name in metrics.", "store"]
    host: Host
    port: Port
    root: Annotated[Path, "Directory with weights."]
    egress_bytes_s: Annotated[float, "Account egress limit, 0 = none.", 0.0]
    cluster: Annotated[str, "Cluster that the account lives in; empty = outside all."] = ""
    cross_cluster_bytes_s: Annotated[float, "Limit of each other cluster's link, 0 = none."] = 0.0
    max_queue: Annotated[int, "Downloads at once; then 503 ServerBusy."] = 64
    retry_after_s: float = 0.25
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class AgentConfig:
    """A node's cache and agent. ``store_urls``: nearest first. ``peer_urls``: the other nodes of its cluster; only when
    none of them has an object or is getting it are ``far_peer_urls`` asked.

    ``fetch_timeout_s`` bounds a whole fetch of a model, retries after 503 and broken links included.
    """

    cluster: Annotated[str, "Its cluster."]
    node: Annotated[str, "Its node."]
    host: Host
    port: Port
    cache_dir: Annotated[Path, "Directory of the cache."]
    cache_bytes: Annotated[int, "Byte budget of the cache.", 1024 * MIB]
    store_urls: Annotated[tuple[str, ...], "Weight store; nearest first (repeat)."]
    peer_urls: Annotated[tuple[str, ...], "Agent of another node of the cluster (repeat)."] = ()
    far_peer_urls: Annotated[tuple[str, ...], "Agent of another cluster's node (repeat)."] = ()
    peer_fetch: Annotated[bool, "Ask peers before stores."] = False
    link_bytes_s: Annotated[float, "The node's network link, each way; 0 = no limit of its own."] = 0.0
    connect_timeout_s: float = 0.5
    read_timeout_s: float = 5.0
    fetch_timeout_s: float = 600.0
    parallel_objects: int = 4
    single_flight: bool = True
    """Off: each replica that asks for an object that is not here gets a download of its own."""
    honour_retry_after: bool = True
    """Off: a store that answers 503 is asked again at once."""
    seeds: tuple[str, ...] = ()
    """Models that are in the cache when the agent starts, the least recently used first, as far as they fit: what a
    long life has left there. Their objects are linked from ``seed_root``, where ``make_weights`` put them."""
    seed_root: Path | None = None
    seen_at: str = ""
    """Before ``cache_dir`` for those who read the files: where the agent's file system is for them, if not at ``/``."""
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class ServerConfig:
    """One replica of ``model``: a dedicated server, its weights loaded at start; or one of a pool, which answers for
    the pool's fine-tunes, each loaded when first asked. ``replica`` is its name."""

    cluster: Annotated[str, "Cluster of its node.", "local"]
    node: Annotated[str, "Its node.", "node"]
    replica: Annotated[str, "Name of this replica."]
    model: ModelSpec
    host: Host
    port: Port
    agent_url: Annotated[str, "The node's agent, which gives the weights."]
    control_url: Annotated[str, "Control plane to report to; empty = nobody."] = ""
    load_timeout_s: float = 600.0
    drain_s: float = 1.0
    access_log: Annotated[Path | None, "One JSON line an answer."] = None
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class GatewayConfig:
    """The one entry point. ``clusters``: (name, control plane URL). ``models``: names that exist even before a replica
    of them was seen (503 rather than 404), their fine-tunes and fallbacks.

    ``health_failures`` failed checks in a row eject a replica.
    """

    host: Host
    port: Port
    clusters: Clusters = ()
    models: tuple[ModelSpec, ...] = ()
    switches: Switches = field(default_factory=Switches)
    health_timeout_s: float = 0.5
    health_failures: int = 2
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class AllocatorConfig:
    """The controller of ``models`` over ``clusters``, (name, control plane URL)."""

    host: Host
    port: Port
    clusters: Clusters = ()
    models: tuple[ModelSpec, ...] = ()
    switches: Switches = field(default_factory=Switches)
    gateway_url: Annotated[str, "Fail-back waits until this gateway routes to the home replica."] = ""
    log_dir: Path | None = None
    token: str = field(default="", repr=False)
