"""``FleetSpec``: the description of a fleet: clusters, nodes, GPUs, models, links, weight stores, switches.

A value, from Python or from a TOML file; environments start what it says, ``fleet.forecast`` reckons with it, drills
carry it. It never starts, opens or asks anything. ``problems`` (in ``fleet.checks``) says everything that is wrong.

    FleetSpec ── clusters: ClusterSpec ── nodes: NodeSpec          one failure domain, its machines, their GPUs
        ├─ models: ModelSpec                                       what is served, how big, where, how important
        ├─ stores: StoreSpec, links: LinkSpec                      where weights come from, and how fast
        └─ switches: Switches                                      each remediation of the outage, on or off
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

import msgspec

from history.errors import UsageError, meant
from history.op import ModelKind

if TYPE_CHECKING:  # a model server, who needs neither, starts without them
    from history.records import MixEntry, ModelFacts

MIB = 1024 * 1024
_HELP = (
    "each field's meaning and unit: python -m pydoc fleet.spec; a commented example: docs/fleet.toml, in the repository"
)

Checks = Literal["http", "tcp"]
"""What a health check asks for: an answer, or (tcp) only that somebody takes the connection."""


@dataclass(frozen=True)
class NodeSpec:
    """A machine: ``gpus`` that replicas take, and ``cache_bytes`` of local disk for weights."""

    name: str
    gpus: int
    cache_bytes: int = 256 * MIB


@dataclass(frozen=True)
class ClusterSpec:
    """One failure domain: its nodes live and die together."""

    name: str
    nodes: tuple[NodeSpec, ...]

    @property
    def gpus(self) -> int:
        """All GPUs of the cluster."""
        return sum(node.gpus for node in self.nodes)


@dataclass(frozen=True)
class ModelSpec:
    """A model and its replicas.

    ``gpus`` a replica takes, all on one node. ``priority``: higher is re-allocated first. ``share`` of the load.
    ``homes``: clusters of its replicas in order, used round robin; empty = spread over all clusters.
    ``slots`` requests run at once in a replica, ``queue`` wait, the next is answered 429.
    ``first_token_ms`` and ``token_ms`` are how long a replica takes for its first and each further token; for the first
    ``cold_requests`` of its life ``cold_factor`` times as long (kernels compile, prefix caches fill).

    ``fine_tunes`` above 0: a pool. Its replicas answer for that many fine-tunes (``NAME:001``, …), each of
    ``weight_bytes``, loaded when first asked, least recently used out at ``gpu_memory_bytes`` (0 = no limit). Their
    popularity is Zipf's with exponent ``zipf``; each is served by ``copies`` of the pool's replicas. Nodes start with
    the fine-tunes of their replicas in their caches, as far as they hold them. ``spare_priority``: priority of every
    replica but the first (None: the same).
    """

    name: str
    kind: ModelKind
    model_class: str
    weight_bytes: int
    gpus: int = 1
    replicas: int = 1
    priority: int = 0
    share: float = 0.0
    fallback: str = ""
    homes: tuple[str, ...] = ()
    slots: int = 8
    queue: int = 64
    prompt_tokens: int = 16
    max_tokens: int = 8
    stream: bool = True
    first_token_ms: float = 5.0
    token_ms: float = 2.0
    cold_requests: int = 0
    cold_factor: float = 1.0
    fine_tunes: int = 0
    zipf: float = 0.0
    gpu_memory_bytes: int = 0
    copies: int = 1
    spare_priority: int | None = None

    @property
    def pool(self) -> tuple[str, ...]:
        """The names of its fine-tunes, the most popular first; empty for a model of its own."""
        return tuple(f"{self.name}:{number:03d}" for number in range(1, self.fine_tunes + 1))

    @property
    def total_bytes(self) -> int:
        """Weights of the model, or of all fine-tunes of the pool."""
        return self.weight_bytes * max(self.fine_tunes, 1)

    @property
    def replica_bytes(self) -> int:
        """What one replica comes to hold: all of a model, its part of a pool."""
        part = min(self.copies, self.replicas) / self.replicas if self.fine_tunes else 1.0
        return round(self.total_bytes * part)

    def priority_of(self, index: int) -> int:
        """The priority of replica ``index`` (from 0)."""
        return self.priority if index == 0 or self.spare_priority is None else self.spare_priority

    def asked(self) -> tuple[tuple[str, float], ...]:
        """(name that requests ask for, share of the load): itself, or each fine-tune by its popularity."""
        if not self.fine_tunes:
            return ((self.name, self.share),)
        weights = [rank**-self.zipf for rank in range(1, self.fine_tunes + 1)]
        return tuple((name, self.share * w / sum(weights)) for name, w in zip(self.pool, weights, strict=True))


Thing = TypeVar("Thing", ClusterSpec, ModelSpec)


@dataclass(frozen=True)
class StoreSpec:
    """A weight store: one account with one egress limit. ``cluster``: the cluster that it stands beside, "" = none.

    A store outlives every cluster (it is the provider's). ``max_queue`` downloads at once, then 503 ServerBusy.
    """

    name: str
    egress_bytes_s: float
    cluster: str = ""
    max_queue: int = 64


@dataclass(frozen=True)
class LinkSpec:
    """The slower link that ``store`` has to each cluster other than its own, in bytes a second a cluster."""

    store: str
    bytes_s: float


@dataclass(frozen=True)
class Switches:
    """Each remediation of the outage as a switch, and the controllers' time-outs.

    ``peer_fetch``: nodes fetch weights from each other first. ``reaction``: who decides to move models.
    A cluster counts as lost after ``detect_failures`` failed polls, one each ``detect_interval_s``.
    ``decision_delay_s``: how long people take before an automatic reaction starts. ``failback``: models go home when
    their cluster is back. ``fallback``: the gateway answers from a model's fallback while it has no ready replica, or
    they are full (off: the fallback is only advice to users, as in the outage). ``retries`` and the time-outs from
    there on are the gateway's.

    ``checks``: whether a health check needs an answer, or only a TCP connection. ``slow_start_s``: over how long the
    gateway gives a replica that became ready its traffic. ``single_flight``: a node downloads an object once, however
    many replicas wait for it. ``honour_retry_after``: nodes wait as long as a busy store asks. ``provision_node_s``:
    the provider's time to hand out each node of a cluster that is rebuilt. ``ingress_restored``: whether what a
    restored cluster serves can be reached.
    """

    peer_fetch: bool = False
    reaction: Literal["automatic", "manual"] = "automatic"
    detect_interval_s: float = 0.25
    detect_failures: int = 3
    detect_timeout_s: float = 0.5
    decision_delay_s: float = 0.0
    failback: bool = True
    fallback: bool = False
    retries: int = 0
    connect_timeout_s: float = 0.3
    read_timeout_s: float = 10.0
    health_interval_s: float = 0.5
    checks: Checks = "http"
    slow_start_s: float = 0.0
    single_flight: bool = True
    honour_retry_after: bool = True
    provision_node_s: float = 0.0
    ingress_restored: bool = True
    locked: tuple[str, ...] = ()
    """Clusters that nobody can delete until somebody takes the lock away."""

    @property
    def gateway_timeouts(self) -> str:
        """In words, for the run's header."""
        return f"connect {self.connect_timeout_s:g} s, read {self.read_timeout_s:g} s, retries {self.retries}"

    def to_facts(self) -> tuple[tuple[str, str], ...]:
        """(name, value) of every switch, for the run's header."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"locked": ", ".join(self.locked) or "none"}
        return tuple((name, str(value)) for name, value in values.items())


@dataclass(frozen=True)
class FleetSpec:
    """The whole fleet; see the module docstring. Made by hand, by ``fleets`` or by ``from_toml``."""

    name: str
    clusters: tuple[ClusterSpec, ...]
    models: tuple[ModelSpec, ...]
    stores: tuple[StoreSpec, ...]
    links: tuple[LinkSpec, ...] = ()
    switches: Switches = field(default_factory=Switches)

    def cluster(self, name: str) -> ClusterSpec:
        """The cluster of that name; ``UsageError`` that lists the names there are."""
        return self._named(name, "cluster", self.clusters)

    def model(self, name: str) -> ModelSpec:
        """The model of that name; ``UsageError`` that lists the names there are."""
        return self._named(name, "model", self.models)

    def _named(self, name: str, what: str, things: tuple[Thing, ...]) -> Thing:
        for thing in things:
            if thing.name == name:
                return thing
        known = [thing.name for thing in things]
        hint = f"{meant(name, known)}its {what}s are: {', '.join(known)}"
        raise UsageError(f"{name!r} is no {what} of fleet {self.name!r}", hint=hint)

    def stores_for(self, cluster: str) -> tuple[StoreSpec, ...]:
        """All stores in the order that nodes of ``cluster`` ask them: beside it, beside none, beside others."""
        return tuple(sorted(self.stores, key=lambda s: 0 if s.cluster == cluster else 1 if not s.cluster else 2))

    def link_bytes_s(self, store: str) -> float:
        """What ``store`` gives to each cluster other than its own, bytes a second; 0 = no limit of its own."""
        return next((link.bytes_s for link in self.links if link.store == store), 0.0)

    def problems(self) -> tuple[str, ...]:
        """Every problem at once, each quoting value and rule; empty when the fleet is sound."""
        from fleet.checks import problems

        return problems(self)

    def validated(self) -> FleetSpec:
        """Itself; ``UsageError`` with all problems when there are any."""
        if problems := self.problems():
            count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
            raise UsageError(
                f"fleet {self.name!r} has {count}",
                hint=f"correct all of them; {_HELP}",
                problems=problems,
            )
        return self

    def model_facts(self) -> tuple[ModelFacts, ...]:
        """The models as a run's header records them."""
        from history.records import ModelFacts

        return tuple(
            ModelFacts(
                name=m.name,
                kind=m.kind,
                model_class=m.model_class,
                weight_bytes=m.weight_bytes,
                gpus=m.gpus,
                replicas=m.replicas,
                priority=m.priority,
                share=m.share,
                fallback=m.fallback,
                fine_tunes=m.pool,
            )
            for m in self.models
        )

    def mix_entries(self) -> tuple[MixEntry, ...]:
        """The load over the fleet's models by their declared shares; models of share 0 are left out."""
        from history.records import MixEntry

        return tuple(
            MixEntry(name, m.kind, share, m.prompt_tokens, m.max_tokens, m.stream and m.kind != "embedding")
            for m in self.models
            if m.share > 0
            for name, share in m.asked()
        )

    @classmethod
    def from_toml(cls, path: Path) -> FleetSpec:
        """Reads a fleet file: ``name``, ``[switches]``, and arrays of tables ``[[clusters]]``, ``[[models]]``, …

        ``UsageError`` when it cannot be read, or with every mistake of a file that has wrong fields; what the values of
        all others mean is checked by ``problems`` afterwards.
        """
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(
                f"fleet file {path} cannot be read: {error}", hint="give a TOML file that describes a fleet"
            ) from error
        return _from_tables(raw, str(path))


_TABLES: dict[str, type] = {"clusters": ClusterSpec, "models": ModelSpec, "stores": StoreSpec, "links": LinkSpec}


def _from_tables(raw: dict[str, Any], path: str) -> FleetSpec:
    wrong: list[str] = []
    parts: dict[str, tuple[Any, ...]] = {}
    for key in sorted(raw.keys() - {"name", "switches", *_TABLES}):
        wrong.append(f"{key!r} is no part of a fleet; the parts are name, switches, {', '.join(_TABLES)}")
    if not isinstance(raw.get("name"), str):
        wrong.append(f"name is {raw.get('name')!r}; it must be a text")
    for key, kind in _TABLES.items():
        tables = raw.get(key, [])
        if not isinstance(tables, list):
            wrong.append(f"{key} is {tables!r}; it must be an array of tables: [[{key}]]")
            tables = []
        made = (_convert(table, kind, f"{key}[{i}]", wrong) for i, table in enumerate(tables))
        parts[key] = tuple(part for part in made if part is not None)
    switches = _convert(raw.get("switches", {}), Switches, "switches", wrong)
    if wrong:
        from fleet.checks import problems_of_parts

        wrong += problems_of_parts(FleetSpec("unknown", switches=switches or Switches(), **parts))
        raise UsageError(
            f"fleet file {path} has {len(wrong)} mistake{'s' * (len(wrong) > 1)}",
            hint=_HELP,
            problems=tuple(wrong),
        )
    return FleetSpec(name=raw["name"], switches=switches, **parts)


def _convert(table: Any, kind: type, where: str, wrong: list[str]) -> Any:
    """One table as a record. What is wrong with it is added to ``wrong``; the record is then as good as can be, for
    what others say of it, or None."""
    if not isinstance(table, dict):
        wrong.append(f"{where} is {table!r}; it must be a table")
        return None
    name = f" ({table['name']})" if "name" in table else ""
    known = {f.name for f in fields(kind)}
    for key in sorted(table.keys() - known):
        wrong.append(
            f"{where}{name}: {key!r} is no field of it; {meant(key, known)}fields are {', '.join(sorted(known))}"
        )
    nodes = table.get("nodes") if kind is ClusterSpec else None
    try:
        if isinstance(nodes, list) and any(isinstance(node, dict) and node.keys() - _NODE for node in nodes):
            return _mended(table, kind, f"{where}{name}", wrong)
        return msgspec.convert(table, kind)
    except msgspec.ValidationError:
        return _mended(table, kind, f"{where}{name}", wrong)


_NODE = {f.name for f in fields(NodeSpec)}
_STAND_INS: dict[str, Any] = {"kind": "chat", "model_class": "unknown", "weight_bytes": 1, "gpus": 1}
_STAND_INS |= {"egress_bytes_s": 1.0, "bytes_s": 1.0}


def _mended(table: dict[str, Any], kind: type, where: str, wrong: list[str]) -> Any:
    """The record with a default or a stand-in for each field that is wrong, and a mistake for each."""
    hints, good = get_type_hints(kind), dict[str, Any]()
    for one in fields(kind):
        needed, value = one.default is MISSING and one.default_factory is MISSING, table.get(one.name)
        if one.name == "nodes" and isinstance(value, list):
            nodes = [_convert(node, NodeSpec, f"{where}.nodes[{i}]", wrong) for i, node in enumerate(value)]
            good[one.name] = tuple(node for node in nodes if node is not None)
            continue
        try:
            if one.name in table:
                good[one.name] = msgspec.convert(value, hints[one.name])
                continue
            wrong += [f"{where}: {one.name} is missing"] * needed
        except msgspec.ValidationError as error:
            wrong.append(f"{where}: {one.name}={value!r}: {error}")
        if needed:
            good[one.name] = (NodeSpec(table.get("name", ""), 1),) if one.name == "nodes" else _STAND_INS.get(one.name)
    return None if None in good.values() else kind(**good)
