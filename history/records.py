"""The frozen, versioned records that rooms exchange through the run directory.

What two rooms both need to know is here and is written into ``header.json``: assertions and reports read these
records and never execute a drill script. All are plain frozen dataclasses; msgspec turns them into JSON and back.
Units stand last in the names. Tuples, not lists, so that a record is a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from history.clock import Anchor
from history.op import ModelKind as ModelKind

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelFacts:
    """A model as the run knew it. ``share`` is its part of the load (all shares sum to 1)."""

    name: str
    kind: ModelKind
    model_class: str
    weight_bytes: int
    gpus: int
    replicas: int
    priority: int
    share: float
    fallback: str = ""
    fine_tunes: tuple[str, ...] = ()
    """A pool's fine-tunes: requests ask for these, and are judged as the pool's. ``weight_bytes`` is of each."""


@dataclass(frozen=True)
class NodeFacts:
    """A node and the GPUs that it can give to replicas."""

    name: str
    gpus: int


@dataclass(frozen=True)
class ClusterFacts:
    """One failure domain: its nodes and the cluster's own addresses, which the cluster prober asks.

    ``api_url`` is the control plane's readiness URL; ``data_urls`` are URLs answered by the nodes (one a node).
    """

    name: str
    nodes: tuple[NodeFacts, ...]
    api_url: str
    data_urls: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """Where one replica was when the baseline ended: decides who is *affected* and who is a *bystander*."""

    model: str
    cluster: str
    node: str
    replica: str
    ready: bool = True
    """Does it serve? A drill starts only when all do."""


@dataclass(frozen=True)
class Target:
    """What the load is sent to: an OpenAI-compatible entry point, and how to authenticate.

    ``auth_env`` names an environment variable that holds a bearer token; the token itself is never recorded.
    ``model_urls``: (model, entry URL) of models that have an entry point of their own; all others use ``entry_url``.
    """

    entry_url: str
    auth_env: str = ""
    model_urls: tuple[tuple[str, str], ...] = ()

    def url_of(self, model: str) -> str:
        """The entry URL that requests for ``model`` are sent to."""
        return dict(self.model_urls).get(model, self.entry_url)


@dataclass(frozen=True)
class MixEntry:
    """One part of the mix: requests of one model and kind. Shares of a mix sum to 1."""

    model: str
    kind: ModelKind
    share: float
    prompt_tokens: int = 16
    max_tokens: int = 8
    stream: bool = True


@dataclass(frozen=True)
class Mix:
    """The declared mix of models and kinds."""

    entries: tuple[MixEntry, ...]


@dataclass(frozen=True)
class LoadSpec:
    """The open-loop load. ``shape`` constant: evenly spaced; poisson: exponential gaps; ramp: from
    ``rate_from_rps`` to ``rate_rps`` over ``ramp_s``, then constant. Rates in requests a second.

    A request is *good* when it is ok within ``good_within_ms`` of its intended time (DESIGN 3.4).
    ``horizon_s`` is how far the schedule was drawn; the load stops earlier when the last step ends.
    """

    shape: Literal["constant", "ramp", "poisson"]
    rate_rps: float
    good_within_ms: float
    connect_timeout_s: float
    total_timeout_s: float
    horizon_s: float
    seed: int
    rate_from_rps: float = 0.0
    ramp_s: float = 0.0


@dataclass(frozen=True)
class FaultMark:
    """A fault as the header announces it and as pages draw it. ``noop`` faults touch nothing."""

    kind: str
    cluster: str
    signature: str
    label: str
    noop: bool = False


@dataclass(frozen=True)
class Signal:
    """One independent sign that a fault (or its healing) did or did not take effect, and what was seen."""

    name: str
    ok: bool
    seen: str


@dataclass(frozen=True)
class StoryPost:
    """What was told at the time of an outage that a drill replays. ``minutes`` since it began, on its own clock."""

    minutes: float
    wall: str
    text: str


@dataclass(frozen=True)
class StepFacts:
    """A step in words, for pages: ``kind`` is the noun, ``text`` what the drill script says."""

    kind: str
    text: str


ScopeName = str
"""``fleet`` | ``each model`` | ``each class`` | ``affected`` | ``bystanders`` | ``model:NAME`` | ``class:NAME``
| ``served by:CLUSTER``. ``each model``/``each class`` expand to one verdict a model/class."""

Indicator = Literal[
    "recovered",
    "service_back",
    "detected",
    "decided",
    "reallocated",
    "warm",
    "full_capacity",
    "lost",
    "latency",
    "good_ratio",
    "no_dip",
    "cache_hit_ratio",
    "store_bytes",
    "failed_back",
    "forecast_right",
    "placed_twice",
    "serves_again",
    "provisioned",
    "store_copies",
    "busy_honoured",
    "corrupt_caught",
]

AT_LEAST: Final = ("good_ratio", "cache_hit_ratio", "corrupt_caught")
"""Indicators that are good when they are high: the limit is the least. For all others it is the most."""

WindowName = Literal["drill", "baseline", "fault", "outage", "degraded", "hold", "failback"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """An SLO: an indicator over a window with a limit, for a scope.

    ``recovered``, ``service_back``, ``warm``: seconds since injection <= limit, proven at ``ratio``.
    ``detected``, ``decided``, ``reallocated`` (a replacement is ready for every replica that was lost),
    ``full_capacity``: seconds <= limit. ``lost``: bad ops in the window <= limit.
    ``failed_back``: s from the verified restore until every lost replica is home and no surrogate stands <= limit.
    ``latency``: ``percentile`` of all ops' latency in ms <= limit; a failed op counts as a time-out.
    ``good_ratio``: good / all in the window >= limit.
    ``no_dip``: no relapse in the window at ``ratio`` (limit 0 relapses). ``cache_hit_ratio`` (>=) and ``store_bytes``
    (<=, bytes sent by weight stores) come from Prometheus and are unknown without it.
    ``forecast_right``: models that did other than forecast <= limit. ``placed_twice``: s for which a model had more
    ready replicas than declared <= limit. ``serves_again``: s from the verified restore to the victim's first answer.
    ``provisioned``: s from the restore call until ``stage`` (the last without one) was verified. ``store_copies``:
    bytes that stores sent over those that each cluster needed once <= limit. ``busy_honoured``: requests that came
    before a 503's Retry-After <= limit. ``corrupt_caught`` (>=): objects that failed their hash. The last three come
    from Prometheus.
    """

    name: str
    indicator: Indicator
    scope: ScopeName
    window: WindowName
    limit: float
    unit: str
    ratio: float = 0.99
    percentile: float = 95.0
    playbook: str = ""
    not_before: float = 0.0
    """``recovered``: the value must not be below this either (a replay that recovers too early is no replay)."""
    first_hold: bool = False
    """``recovered``: the first hold counts, and a later relapse is shown and judged apart."""
    stage: str = ""


@dataclass(frozen=True)
class ModelForecast:
    """What must happen to one model if the victim goes.

    ``fits`` False: ``reason`` has the numbers. ``reload_s`` is the least time that its bytes need to arrive
    (bytes over the narrowest link, shared with everybody that reloads at once), None when nothing is lost.
    """

    model: str
    replicas_lost: int
    replicas_placeable: int
    fits: bool
    reason: str
    reload_bytes: int
    reload_s: float | None
    replicas_placeable_at_most: int | None = None
    """Where no exact answer is known: ``replicas_placeable`` surely fit, and no more than this. None: exact."""
    nodes: tuple[str, ...] = ()
    """Where those that fit go: one node a replica."""

    @property
    def at_most(self) -> int:
        """No more replicas than this find a place."""
        limit = self.replicas_placeable_at_most
        return self.replicas_placeable if limit is None else limit

    @property
    def undecided(self) -> bool:
        """No packing of all was found, and nothing excludes one."""
        return not self.fits and self.at_most >= self.replicas_lost


@dataclass(frozen=True)
class Forecast:
    """What happens to each model if ``victim`` goes (several at once: their names joined). GPU counts are of the
    survivors."""

    victim: str
    gpus_needed: int
    gpus_free: int
    models: tuple[ModelForecast, ...]
    clusters: tuple[str, ...] = ()
    """The clusters that go, where they are several."""

    @property
    def gone(self) -> tuple[str, ...]:
        """All clusters that go."""
        return self.clusters or (self.victim,)

    @property
    def fits(self) -> bool:
        """Every lost replica finds GPUs on the survivors."""
        return all(m.fits for m in self.models)


@dataclass(frozen=True)
class FleetFacts:
    """The fleet as the run found it at the end of its start-up."""

    name: str
    clusters: tuple[ClusterFacts, ...]
    models: tuple[ModelFacts, ...]
    placements: tuple[Placement, ...]
    gateway_timeouts: str = ""
    switches: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RunHeader:
    """Everything that a stranger needs to read the run: written once, before the first op."""

    run_id: str
    drill: str
    description: str
    seed: int
    environment: str
    anchor: Anchor
    command_line: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    commit: str
    dirty: bool
    host: tuple[tuple[str, str], ...]
    fleet: FleetFacts
    target: Target
    mix: Mix
    load: LoadSpec
    steps: tuple[StepFacts, ...]
    faults: tuple[FaultMark, ...]
    objectives: tuple[ObjectiveSpec, ...]
    forecast: Forecast | None = None
    prometheus: bool = False
    time_scale: float = 1.0
    """One second of the run stands for so many seconds of what it replays; pages show both clocks."""
    recovery_until: Literal["restore", "end"] = "restore"
    """Where the fault window ends: at the restore call, or, where recovery may need the restore, with the load."""
    says_end: bool = False
    """The runner's last op is a RUN_END; without one the harness died (headers of older runs: nobody knows)."""
    story: tuple[StoryPost, ...] = ()
    """For a replay: what was posted then, for pages to set beside what the run showed."""
    schema_version: int = SCHEMA_VERSION
    notes: tuple[str, ...] = field(default_factory=tuple)
    forecasts: tuple[Forecast, ...] = ()
    """One for each set of clusters that the drill takes at one time; ``forecast`` is the first, and all that headers of
    older runs have."""

    def forecast_of(self, victims: tuple[str, ...]) -> Forecast | None:
        """The forecast of losing exactly these clusters; without one the first."""
        exact = (one for one in self.forecasts if set(one.gone) == set(victims))
        return next(exact, self.forecast)
