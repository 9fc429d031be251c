"""What each serving process is told at its start: frozen, picklable values, made by the environment.

Whoever starts a process builds one of these and calls the ``run`` of its module (in a forked child, or by hand through
the module's command line). Configs never open, read or check anything. ``token``: the run's own, which every request
that changes state must bring (``serve.token_guard``); it is in no repr, so that no log has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from history.records import ModelKind

MIB = 1024 * 1024

Checks = Literal["http", "tcp"]
"""What a health check asks for: an answer, or (tcp) only that somebody takes the connection."""


@dataclass(frozen=True)
class StoreConfig:
    """A weight store: one account with one egress limit. ``root`` is what ``make_weights`` filled.

    ``cluster`` is where the account lives ("" = outside all: no link counts as cross-cluster).
    ``cross_cluster_bytes_s`` limits each other cluster's link, 0 = no limit; the egress limit always counts.
    ``max_queue``: object downloads in progress beyond which the store answers 503 ServerBusy.
    """

    name: str
    host: str
    port: int
    root: Path
    egress_bytes_s: float
    cluster: str = ""
    cross_cluster_bytes_s: float = 0.0
    max_queue: int = 64
    retry_after_s: float = 0.25
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class AgentConfig:
    """A node's cache and agent. ``store_urls``: nearest first. ``peer_urls``: the other nodes of its cluster; only when
    none of them has an object or is getting it are ``far_peer_urls`` asked.

    ``link_bytes_s``: the node's network link, each way; 0 = no limit of its own.
    ``fetch_timeout_s`` bounds a whole fetch of a model, retries after 503 and broken links included.
    """

    cluster: str
    node: str
    host: str
    port: int
    cache_dir: Path
    cache_bytes: int
    store_urls: tuple[str, ...]
    peer_urls: tuple[str, ...] = ()
    far_peer_urls: tuple[str, ...] = ()
    peer_fetch: bool = False
    link_bytes_s: float = 0.0
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
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class ServerConfig:
    """One model replica. ``slots`` requests run at once, ``queue`` wait, the next is answered 429.

    ``pool`` empty: a dedicated server of ``model``, its weights loaded at start. ``pool`` given: it answers for these
    fine-tunes, each loaded when first asked, least recently used out at ``gpu_memory_bytes`` (0 = no limit).
    """

    cluster: str
    node: str
    replica: str
    model: str
    kind: ModelKind
    host: str
    port: int
    agent_url: str
    control_url: str
    gpus: int = 1
    slots: int = 8
    queue: int = 64
    token_seconds: float = 0.002
    first_token_seconds: float = 0.005
    cold_requests: int = 0
    """The first so many answers take ``cold_factor`` times as long: kernels compile, caches of prefixes are empty."""
    cold_factor: float = 1.0
    pool: tuple[str, ...] = ()
    gpu_memory_bytes: int = 0
    load_timeout_s: float = 600.0
    drain_s: float = 1.0
    access_log: Path | None = None
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class GatewayConfig:
    """The one entry point. ``clusters``: (name, control plane URL). ``pools``: (pool, its fine-tunes): requests for a
    fine-tune go to replicas of its pool. ``fallbacks``: (model, model to use when it has no ready replica).

    ``health_failures`` failed checks in a row eject a replica; ``retries`` counts further replicas tried after a
    failure before the first byte.
    """

    host: str
    port: int
    clusters: tuple[tuple[str, str], ...]
    connect_timeout_s: float = 0.3
    read_timeout_s: float = 10.0
    health_interval_s: float = 0.5
    health_timeout_s: float = 0.5
    health_failures: int = 2
    checks: Checks = "http"
    slow_start_s: float = 0.0
    """A replica that became ready gets its full part of its model's traffic only after this long, growing evenly."""
    fallbacks: tuple[tuple[str, str], ...] = ()
    pools: tuple[tuple[str, tuple[str, ...]], ...] = ()
    copies: tuple[tuple[str, int], ...] = ()
    """(pool, how many of its replicas serve each of its fine-tunes); 1 where a pool is not named."""
    models: tuple[str, ...] = ()
    """Names that exist even before a replica of them was seen: 503 rather than 404."""
    retries: int = 0
    log_dir: Path | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class AllocatedModel:
    """What the allocator knows of a model. ``priority``: higher is placed first. ``homes``: clusters of its replicas
    in order, used round robin; empty = spread over all clusters."""

    name: str
    gpus: int
    replicas: int
    priority: int = 0
    homes: tuple[str, ...] = ()
    spare_priority: int | None = None

    def priority_of(self, index: int) -> int:
        """The priority of replica ``index`` (from 0): ``spare_priority`` for all but the first, where given."""
        return self.priority if index == 0 or self.spare_priority is None else self.spare_priority


@dataclass(frozen=True)
class AllocatorConfig:
    """The controller. A cluster is lost after ``detect_failures`` polls of ``/readyz`` in a row that fail.

    ``decision_delay_s`` is how long the operators take before an automatic reaction; with ``reaction="manual"``
    nothing moves until ``POST /decide``. ``gateway_url``: fail-back waits until the gateway sees the home replica.
    """

    host: str
    port: int
    clusters: tuple[tuple[str, str], ...]
    models: tuple[AllocatedModel, ...]
    reaction: Literal["automatic", "manual"] = "automatic"
    detect_interval_s: float = 0.25
    detect_failures: int = 3
    detect_timeout_s: float = 0.5
    failback: bool = True
    decision_delay_s: float = 0.0
    checks: Checks = "http"
    gateway_url: str = ""
    log_dir: Path | None = None
    token: str = field(default="", repr=False)
