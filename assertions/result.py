"""``Result``: what assertions make of a history; written as ``result.json`` and read by every report.

All times are seconds since the injection call (``_s``); a time that was never reached is None. ``Interval`` is
``[low, high]`` with ``high`` None where the end was not seen: the truth is later than ``low``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from history.records import Signal

Verdict = Literal["pass", "fail", "unknown"]
Interval = tuple[float, float | None]

RESULT_SCHEMA_VERSION = 1

PHASES = (
    "detected",
    "decided",
    "scheduled",
    "weights",
    "ready",
    "first_success",
    "service_back",
    "recovered",
    "warm",
    "full_capacity",
)
"""The phase clock in its natural order (DESIGN 4)."""


@dataclass(frozen=True)
class ModelRecovery:
    """The phase clock of one model, class or fleet. Scalars are the later bound; ``bounds``: [low, high] each.

    ``unaffected``: no bad op in the fault window, or only such as chance gives to a scope that held its ratio from the
    injection on (docs/decisions/0001); never true where nothing was injected or nothing sent. ``relapsed``: after its
    hold, bad ops beyond chance.
    ``ratio`` is what *service back*, *recovered* and the hold prove. ``victims``: replicas lost with the cluster.
    ``sent``, ``bad``, ``unknown`` count the load ops of the fault window; ``failback_bad`` the bad ones after it.
    """

    detected_s: float | None
    decided_s: float | None
    scheduled_s: float | None
    weights_s: float | None
    ready_s: float | None
    first_success_s: float | None
    service_back_s: Interval | None
    recovered_s: Interval | None
    warm_s: float | None
    full_capacity_s: float | None
    unaffected: bool
    relapsed: bool = False
    ratio: float = 0.90
    hold_certified_s: float | None = None
    bounds: dict[str, Interval] = field(default_factory=dict)
    model_class: str = ""
    victims: int = 0
    sent: int = 0
    bad: int = 0
    unknown: int = 0
    unplaceable: str = ""
    failback_bad: int = 0
    degraded: int = 0
    """Of ``bad``: answered in time or not, but by the model's fallback."""
    canary_failed: int = 0
    canary_back_s: Interval | None = None
    """Probes over new connections that failed in the fault window; [the last before the first answer, that answer]."""


@dataclass(frozen=True)
class WindowSpan:
    """A named interval for a scope; ``scope`` is "fleet", a model's or a class's name."""

    name: str
    scope: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Seen:
    """One way in which a plane of the victim failed for the cluster prober, from the injection until its heal began.

    ``median_ms``: how long after such a probe was sent it failed, or how long it had waited when the heal began.
    """

    plane: str
    error: str
    count: int
    median_ms: float


@dataclass(frozen=True)
class FaultResult:
    """A fault as it happened. ``injected_s`` is 0 for the first one: the clock starts there."""

    kind: str
    cluster: str
    signature: str
    injected_s: float
    verified_s: float | None
    heal_s: float | None
    healed_s: float | None
    signals: tuple[Signal, ...] = ()
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class ObjectiveResult:
    """One objective in one scope. ``bounds`` is the interval that the verdict respects; ``measured`` its later end
    (or the value itself). ``text`` says it in words: "6.4 s", "> 60 s", "no bad op"."""

    name: str
    scope: str
    indicator: str
    window: str
    measured: float | None
    bounds: Interval | None
    limit: float
    unit: str
    verdict: Verdict
    text: str
    evidence: str
    playbook: str = ""


def ends_open(
    scope: str, recovery: ModelRecovery, objectives: tuple[ObjectiveResult, ...], run_verdict: Verdict
) -> bool:
    """Where no recovery of ``scope`` was proven: is it not known (True), or missed?

    As the objectives on its recovery judge it; where it has none, as the whole run was judged. Missed where it found
    no place.
    """
    own = [o.verdict for o in objectives if o.scope == scope and o.indicator in ("recovered", "service_back")]
    return not recovery.unplaceable and ("fail" not in own if own else run_verdict == "unknown")


@dataclass(frozen=True)
class Check:
    """A validity or *it really happened* check."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Validity:
    """Was the measurement itself sound? A failed check makes the run unknown, with the reason."""

    scheduled: int
    recorded: int
    dropped: int
    no_record: int
    duplicates: int
    unknown: int
    damaged_lines: int
    lag_ms_p50: float | None
    lag_ms_p99: float | None
    lag_ms_max: float | None
    lag_ms_near_edges: float | None
    achieved_ratio: float | None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Load ops of the whole drill. ``lost`` = bad ops in the fault window. Unknown ops are in neither good nor bad."""

    sent: int
    good: int
    bad: int
    unknown: int
    lost: int
    errors: dict[str, int] = field(default_factory=dict)
    degraded: int = 0
    """Of ``bad``: answered by a fallback."""


@dataclass(frozen=True)
class ForecastRow:
    """Forecast against actual for one model; ``ratio`` = actual / forecast reload seconds."""

    model: str
    fits_forecast: bool | None
    fits_actual: bool | None
    reload_s_forecast: float | None
    reload_s_actual: float | None
    ratio: float | None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """The whole outcome of a run. Pure function of the run directory: the same bytes every time."""

    drill: str
    run_id: str
    seed: int
    environment: str
    verdict: Verdict
    reasons: tuple[str, ...]
    headline: str
    faults: tuple[FaultResult, ...]
    windows: tuple[WindowSpan, ...]
    fleet: ModelRecovery | None
    models: dict[str, ModelRecovery]
    classes: dict[str, ModelRecovery]
    objectives: tuple[ObjectiveResult, ...]
    validity: Validity
    totals: Totals
    forecast: tuple[ForecastRow, ...] = ()
    prometheus: dict[str, Any] = field(default_factory=dict)
    artefacts: tuple[str, ...] = ()
    schema_version: int = RESULT_SCHEMA_VERSION
