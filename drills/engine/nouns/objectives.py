"""Objectives and live predicates, as a drill script says them: ``objectives as o`` -> ``o.recovered(...)``.

Each function returns an ``Objective`` that holds an ``ObjectiveSpec`` (see ``history.records``: indicator, scope,
window, limit). Limits are inclusive. Scopes: ``fleet``, ``each model``, ``each class``, ``affected`` (had a replica
in the victim), ``bystanders`` (had none), ``model:NAME``, ``class:NAME``, ``served by:CLUSTER``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from assertions import live
from drills.engine.nouns.located import Located, Problem
from drills.engine.nouns.steps import Until
from history.errors import meant
from history.records import Indicator, ObjectiveSpec, WindowName

_PLAIN_SCOPES = ("fleet", "each model", "each class", "affected", "bystanders")


@dataclass(frozen=True)
class Objective(Located):
    """An SLO as written in a drill script. ``limits``: those of environments where another one holds."""

    spec: ObjectiveSpec
    limits: tuple[tuple[str, float], ...] = ()

    def elsewhere(self, **limits: float) -> Objective:
        """Other limits by environment, for what an environment makes and not the fleet: ``.elsewhere(kind=40)``."""
        return replace(self, limits=tuple(limits.items()))

    def there(self, environment: str) -> Objective:
        """As it holds in that environment."""
        return replace(self, spec=replace(self.spec, limit=dict(self.limits).get(environment, self.spec.limit)))

    def problems(self, models: tuple[str, ...], classes: tuple[str, ...], clusters: tuple[str, ...]) -> list[Problem]:
        """Every mistake of this objective, given the fleet's names."""
        spec, found = self.spec, []
        for limit in (spec.limit, spec.not_before, *dict(self.limits).values()):
            if not (math.isfinite(limit) and limit >= 0):
                found.append(f"limit {limit!r} {spec.unit}: must be a number that is not negative")
        if not 0 < spec.ratio < 1:
            found.append(f"ratio={spec.ratio!r}: must lie between 0 and 1 (no finite run can prove a ratio of 1)")
        if not 0 < spec.percentile <= 100:
            found.append(f"percentile {spec.percentile!r}: must lie in (0, 100]")
        kind, _, name = spec.scope.partition(":")
        known = {"model": models, "class": classes, "served by": clusters}.get(kind)
        if known is None and spec.scope not in _PLAIN_SCOPES:
            rule = ", ".join((*_PLAIN_SCOPES, "model:NAME", "class:NAME", "served by:CLUSTER"))
            found.append(f"scope={spec.scope!r}: must be one of {rule}")
        elif known is not None and name not in known:
            it_has = f"{meant(name, known)}it has {', '.join(known)}"
            found.append(f"scope={spec.scope!r}: the fleet has no {kind} {name!r}; {it_has}")
        return [self.problem(f"objective {spec.name}: {text}") for text in found]


def recovered(
    scope: str = "each model",
    *,
    within_s: float,
    ratio: float = 0.90,
    playbook: str = "",
    not_before_s: float = 0.0,
    first_hold: bool = False,
) -> Objective:
    """The scope is recovered (the users' view) within ``within_s`` of the injection, at ``ratio`` proven at 95 %.

    For replays: not before ``not_before_s``; ``first_hold``: a later relapse is shown, and is not this objective's.
    """
    made = _make("recovered", scope, "fault", within_s, "s", playbook, ratio=ratio)
    return replace(made, spec=replace(made.spec, not_before=not_before_s, first_hold=first_hold))


def service_back(scope: str = "each model", *, within_s: float, ratio: float = 0.90, playbook: str = "") -> Objective:
    """The first good answer of the first hold (the system's view) comes within ``within_s``."""
    return _make("service_back", scope, "fault", within_s, "s", playbook, ratio=ratio)


def detected(*, within_s: float, playbook: str = "") -> Objective:
    """The controller notices the loss within ``within_s``."""
    return _make("detected", "fleet", "fault", within_s, "s", playbook)


def decided(scope: str = "affected", *, within_s: float, playbook: str = "") -> Objective:
    """The controller has decided where every affected model goes within ``within_s``."""
    return _make("decided", scope, "fault", within_s, "s", playbook)


def reallocated(scope: str = "affected", *, within_s: float, playbook: str = "") -> Objective:
    """Every replica that was lost has a ready replacement on a survivor within ``within_s``."""
    return _make("reallocated", scope, "fault", within_s, "s", playbook)


def warm(scope: str = "affected", *, within_s: float, playbook: str = "") -> Objective:
    """The share of answers from weights already in GPU memory is back at its baseline within ``within_s``."""
    return _make("warm", scope, "fault", within_s, "s", playbook)


def full_capacity(scope: str = "affected", *, within_s: float, playbook: str = "") -> Objective:
    """As many replicas are ready again as the fleet declares within ``within_s``."""
    return _make("full_capacity", scope, "fault", within_s, "s", playbook)


def failed_back(*, within_s: float, playbook: str = "") -> Objective:
    """Within ``within_s`` of the verified restore every lost replica is home again and its surrogates are gone."""
    return _make("failed_back", "fleet", "failback", within_s, "s", playbook)


def lost(*, at_most: int, scope: str = "fleet", window: WindowName = "fault", playbook: str = "") -> Objective:
    """At most this many requests end bad in the window."""
    return _make("lost", scope, window, float(at_most), "requests", playbook)


def latency(
    *,
    p95_ms: float | None = None,
    p99_ms: float | None = None,
    scope: str = "fleet",
    window: WindowName = "fault",
    playbook: str = "",
) -> Objective:
    """The latency from the intended send in the window, at p95 or p99 (exact, nearest rank); failed requests count
    as time-outs."""
    if (p95_ms is None) == (p99_ms is None):
        raise TypeError("o.latency takes exactly one of p95_ms and p99_ms")
    limit, percentile = (p95_ms, 95.0) if p95_ms is not None else (p99_ms, 99.0)
    assert limit is not None
    return _make("latency", scope, window, limit, "ms", playbook, percentile=percentile)


def good_ratio(*, at_least: float, scope: str = "fleet", window: WindowName = "fault", playbook: str = "") -> Objective:
    """The share of good requests in the window is at least this."""
    return _make("good_ratio", scope, window, at_least, "ratio", playbook)


def no_dip(
    *, window: WindowName = "failback", scope: str = "fleet", ratio: float = 0.99, playbook: str = ""
) -> Objective:
    """The window has no more bad requests than chance allows at ``ratio`` (binomial, p < 0.001)."""
    return _make("no_dip", scope, window, 0.0, "relapses", playbook, ratio=ratio)


def cache_hits(*, at_least: float, window: WindowName = "drill", playbook: str = "") -> Objective:
    """The share of weight fetches that a node's own cache could answer; from Prometheus, unknown without it."""
    return _make("cache_hit_ratio", "fleet", window, at_least, "ratio", playbook)


def store_bytes(*, at_most: float, window: WindowName = "fault", playbook: str = "") -> Objective:
    """Bytes that the weight stores sent in the window; from Prometheus, unknown without it."""
    return _make("store_bytes", "fleet", window, at_most, "bytes", playbook)


def forecast_right(*, playbook: str = "") -> Objective:
    """Every model that the forecast said fits is placed and recovers, and every other finds no place."""
    return _make("forecast_right", "fleet", "fault", 0.0, "models", playbook)


def placed_twice(*, within_s: float, window: WindowName = "failback", playbook: str = "") -> Objective:
    """No model has more ready replicas than declared for longer than this grace."""
    return _make("placed_twice", "fleet", window, within_s, "s", playbook)


def serves_again(*, within_s: float, playbook: str = "") -> Objective:
    """A cluster that was declared restored answers a user within this time: a false restore is noticed."""
    return _make("serves_again", "fleet", "failback", within_s, "s", playbook)


def provisioned(stage: str = "", *, within_s: float, playbook: str = "") -> Objective:
    """A stage of the restore (``api``, ``nodes``, ``gpus``; "" = the last) is verified within this time of its call."""
    made = _make("provisioned", "fleet", "failback", within_s, "s", playbook)
    return replace(made, spec=replace(made.spec, stage=stage, name=f"provisioned[{stage or 'all'}]"))


def store_copies(*, at_most: float, window: WindowName = "fault", playbook: str = "") -> Objective:
    """How often the stores send what a cluster has to load; 1 is perfect single flight. From Prometheus."""
    return _make("store_copies", "fleet", window, at_most, "copies", playbook)


def busy_honoured(*, window: WindowName = "fault", playbook: str = "") -> Objective:
    """No node asks a store that answered 503 again before its Retry-After; unknown without a 503. From Prometheus."""
    return _make("busy_honoured", "fleet", window, 0.0, "requests", playbook)


def corrupt_caught(*, at_least: int, window: WindowName = "fault", playbook: str = "") -> Objective:
    """At least so many objects failed their hash on the nodes, where they arrived. From Prometheus."""
    return _make("corrupt_caught", "fleet", window, float(at_least), "objects", playbook)


def all_recovered() -> Until:
    """Every affected model, the fleet, and all that the drill promises a recovery of have certified their hold."""
    return Until("all recovered", lambda run, now_ns: live.all_recovered(run, now_ns))


def all_failed_back() -> Until:
    """Every lost replica is back in the restored cluster, its surrogate gone, and the fleet holds."""
    return Until("all failed back", lambda run, now_ns: live.all_failed_back(run, now_ns), after_restore=True)


def _make(
    indicator: Indicator,
    scope: str,
    window: WindowName,
    limit: float,
    unit: str,
    playbook: str,
    *,
    ratio: float = 0.99,
    percentile: float = 95.0,
) -> Objective:
    name = f"{indicator}[{scope}]" if window == "fault" else f"{indicator}[{scope}, {window}]"
    return Objective(
        ObjectiveSpec(
            name=name,
            indicator=indicator,
            scope=scope,
            window=window,
            limit=limit,
            unit=unit,
            ratio=ratio,
            percentile=percentile,
            playbook=playbook,
        )
    )
