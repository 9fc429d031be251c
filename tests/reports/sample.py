"""Synthetic runs for the reports' tests: columns drawn from a seed, and a Result made by hand to fit them.

Plain module, loaded by path in conftest.py (and by the subprocess of the determinism test).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_type_hints

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from assertions.result import (
    Check,
    FaultResult,
    ForecastRow,
    ModelRecovery,
    ObjectiveResult,
    Result,
    Seen,
    Totals,
    Validity,
    WindowSpan,
)
from history import op as ops
from history.clock import Anchor
from history.op import Op
from history.reader import History, Requests, Run, Text
from history.records import (
    ClusterFacts,
    FaultMark,
    FleetFacts,
    Forecast,
    LoadSpec,
    Mix,
    MixEntry,
    ModelFacts,
    ModelForecast,
    NodeFacts,
    RunHeader,
    Signal,
    Target,
)
from history.rundir import Schedule

START = 5_000_000_000_000
KILL_S, BACK_S = 20.0, 60.0
CLUSTERS = ("amber", "cobalt", "jade")
NAMES = (
    "davinci", "curie", "babbage", "ada", "code-davinci", "code-cushman", "embed-small", "embed-large",
    "ft-curie-acme", "ft-davinci-zeta",
)  # fmt: skip
DRILL_TEXT = '"""Lose one cluster of three."""\nfrom blackstart import Drill\n\ndrill = Drill(name="cluster-loss")\n'

Outcome = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True)
class Sample:
    """A run, its result, and the drill's text."""

    run: Run
    result: Result
    drill_text: str = DRILL_TEXT


@dataclass(frozen=True)
class _World:
    names: tuple[str, ...]
    classes: tuple[str, ...]
    outage_s: NDArray[np.float64]
    """Seconds of outage a model; 0 for bystanders, infinite for a model that never came back."""
    rate_rps: float
    seconds: float
    seed: int


def build(
    outcome: Outcome = "pass",
    *,
    names: Sequence[str] = NAMES,
    classes: Sequence[str] = (),
    rate_rps: float = 120.0,
    seconds: float = 90.0,
    seed: int = 41,
    prometheus: bool = True,
    error: str = "",
) -> Sample:
    """A realistic run. ``error`` replaces the error word of refused requests (hostile text)."""
    outages = np.array([2.2 + 0.55 * i if i % 4 != 3 else 0.0 for i in range(len(names))])
    outages = np.minimum(outages, 7.5 + 0.001 * np.arange(len(names)))
    if outcome == "fail":
        outages[1] = np.inf
    shown = tuple(classes) or tuple("fine-tuned" if n.startswith("ft-") else "base" for n in names)
    world = _World(tuple(names), shown, outages, rate_rps, seconds, seed)
    requests, schedule = _requests(world, error or ops.REFUSED)
    events = (*_events(world), *(_prometheus(world) if prometheus else ()))
    run = Run(_header(world, prometheus), schedule, History(requests, tuple(events)))
    return Sample(run, _result(world, run, outcome))


EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>|%0A::error::\n`x` {{7*7}} \x00\u202e"
OURS = frozenset({"kind", "source", "outcome", "weights", "indicator", "unit", "window"})
"""Fields whose words are this program's own, whatever a network answers."""


def poisoned() -> Sample:
    """A failed run in which every text is hostile that could come from a network, a fleet file or a user: all names,
    addresses, errors, reasons, details, versions, switches, of header, result and history alike."""
    made = build("fail", rate_rps=40, seconds=40)
    run = made.run
    words: dict[str, Any] = {
        field.name: replace(column, words=poison(column.words))
        for field in fields(run.history.requests)
        if isinstance(column := getattr(run.history.requests, field.name), Text) and field.name not in OURS
    }
    events = tuple(
        structs.replace(event, **{name: poison(getattr(event, name)) for name in ("model", "cluster", "node", "replica",
        "error", "process", "detail")})
        for event in run.history.events
    )  # fmt: skip
    history = History(replace(run.history.requests, **words), events)
    return Sample(Run(poison(run.header), run.schedule, history), poison(made.result), poison(made.drill_text))


def poison(value: Any) -> Any:
    """The same value with EVIL behind every text in it (equal texts stay equal); Literals and OURS stay."""
    if isinstance(value, str):
        return value + EVIL if value else value
    if isinstance(value, dict):
        return {
            poison(k) if k not in ("name", "t_emitted") else k: v if k == "name" else poison(v)
            for k, v in value.items()
        }
    if isinstance(value, tuple | list):
        return type(value)(poison(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        return replace(
            value,
            **{
                field.name: poison(getattr(value, field.name))
                for field in fields(value)
                if field.init and field.name not in OURS and "Literal" not in str(hints[field.name])
            },
        )
    return value


def hostile() -> Sample:
    """Names and errors that would run as markup anywhere they are not escaped."""
    evil = EVIL
    names = (evil, f"a{evil}", "plain", "javascript:alert(3)")
    sample = build("fail", names=names, classes=(evil, evil, "base", "base"), error=evil, rate_rps=40, seconds=40)
    result = sample.result
    faults = tuple(replace(f, cluster=evil, kind=evil, signature=evil) for f in result.faults)
    objectives = tuple(
        replace(o, name=evil, scope=evil, text=evil, evidence=evil, playbook=evil, verdict="fail")
        for o in result.objectives
    )
    checks = (Check(evil, "unknown", evil),)
    result = replace(
        result, drill=evil, headline=evil, reasons=(evil, evil), faults=faults, objectives=objectives,
        validity=replace(result.validity, checks=checks), environment=evil, run_id=evil,
    )  # fmt: skip
    header = replace(
        sample.run.header, drill=evil, command_line=("blackstart", "run", evil), commit=evil,
        versions=((evil, evil),), notes=(evil,),
    )  # fmt: skip
    run = Run(header, sample.run.schedule, sample.run.history)
    return Sample(run, result, evil * 3)


def many_fine_tunes(models: int = 200) -> Sample:
    """Two classes of fine-tunes by the hundred, and a few base models."""
    names = [f"ft-{'curie' if i % 3 else 'davinci'}-{i:03d}" for i in range(models)] + ["curie", "davinci"]
    classes = ["ft-curie" if i % 3 else "ft-davinci" for i in range(models)] + ["base", "base"]
    return build("fail", names=names, classes=classes, rate_rps=400, seconds=80)


def _requests(world: _World, refused: str) -> tuple[Requests, Schedule]:
    rng = np.random.default_rng(world.seed)
    sends = int(world.rate_rps * world.seconds)
    offset = (np.arange(sends) * (1e9 / world.rate_rps)).astype(np.int64)
    model = rng.integers(0, len(world.names), sends)
    cluster = np.array([m % 3 for m in range(len(world.names))])[model]
    at_s, affected = offset / 1e9 - KILL_S, world.outage_s[model] > 0
    cluster = np.where(affected & (rng.random(sends) < 0.6), 1, np.where(cluster == 1, 2, cluster))
    away = (at_s >= 0) & (at_s < BACK_S - KILL_S + 3) & (cluster == 1)
    out = (at_s >= 0) & (at_s < world.outage_s[model]) & (rng.random(sends) < 0.7)
    cluster = np.where(away, np.where(rng.random(sends) < 0.5, 0, 2), cluster)
    took_ms = 20 * rng.lognormal(0, 0.45, sends) + 6
    hot = (at_s >= 0) & (at_s < 12)
    took_ms = np.where(hot, took_ms * (1 + 6 * np.exp(-np.maximum(at_s, 0) / 4)), took_ms)
    timed_out = out & (rng.random(sends) < 0.25)
    took_ms = np.where(out, np.where(timed_out, 5000.0 + rng.random(sends) * 6, 1.2 + rng.random(sends)), took_ms)
    lost = rng.random(sends) < (0.0002 if sends > 2000 else 0)
    t_intended = START + offset
    t_sent = np.where(lost, ops.NEVER, t_intended + (rng.random(sends) * 1.5e6).astype(np.int64))
    t_done = np.where(lost, ops.NEVER, t_intended + (took_ms * 1e6).astype(np.int64))
    words = ("", *world.names)
    errors = ("", refused, ops.TIMEOUT, ops.DROPPED)
    error = np.where(lost, 3, np.where(timed_out, 2, np.where(out, 1, 0)))
    outcomes = ("", "ok", "fail", "unknown")
    outcome = np.where(lost, 3, np.where(out, 2, 1))
    served = np.where(out | lost, 0, cluster + 1)

    def text(codes: NDArray[Any], of: tuple[str, ...]) -> Text:
        return Text(codes.astype(np.int32), of)

    zero, no = np.zeros(sends, np.int64), text(np.zeros(sends), ("",))
    requests = Requests(
        t_intended=t_intended, t_sent=t_sent, t_first_byte=np.where(out | lost, ops.NEVER, t_done - 1_000_000),
        t_done=t_done, seq=np.arange(sends, dtype=np.int64), status=np.where(out | lost, 0, 200).astype(np.int64),
        tokens_expected=zero + 8, tokens=zero + 8, source=text(np.ones(sends), ("", ops.LOAD)),
        process=text(np.ones(sends), ("", "load")), kind=text(np.ones(sends), ("", ops.CHAT)),
        model=text(model + 1, words), cluster=text(served, ("", *CLUSTERS)), node=no, replica=no,
        error=text(error, errors), weights=text(np.ones(sends), ("", ops.RESIDENT)), outcome=text(outcome, outcomes),
        fallback=no,
    )  # fmt: skip
    return requests, Schedule(offset, model.astype(np.int16))


def _at(seconds: float) -> int:
    return START + round((KILL_S + seconds) * 1e9)


def _event(kind: str, seconds: float, source: str = ops.RUNNER, **more: Any) -> Op:
    at, done = _at(seconds), _at(seconds + 0.02)
    return Op(source=source, process=source, kind=kind, t_intended=at, t_sent=at, t_done=done, outcome="ok", **more)


def _events(world: _World) -> list[Op]:
    found = [_event(ops.LOAD_START, -KILL_S), _event(ops.FAULT_INJECT, 0, cluster="cobalt")]
    found.append(_event(ops.FAULT_VERIFIED, 0.2, cluster="cobalt"))
    found.append(_event(ops.DETECTED, 0.9, ops.CONTROLLER, cluster="cobalt"))
    for name, outage in list(zip(world.names, world.outage_s, strict=True))[:40]:
        if outage > 0:
            kind = ops.DECIDED if np.isfinite(outage) else ops.UNPLACEABLE
            detail = {} if np.isfinite(outage) else {"reason": "needs 4 GPUs; free: amber-n1 2, jade-n1 1"}
            found.append(_event(kind, 1.1, ops.CONTROLLER, model=name, detail=detail))
    found += [
        _event(ops.FAULT_HEAL, BACK_S - KILL_S, cluster="cobalt"),
        _event(ops.FAULT_HEALED, BACK_S - KILL_S + 1.4),
    ]
    found.append(_event(ops.RETURNED, BACK_S - KILL_S + 1.6, ops.CONTROLLER, cluster="cobalt"))
    for i, name in enumerate(world.names[:40]):
        if world.outage_s[i] > 0:
            found.append(
                _event(ops.FAILBACK, BACK_S - KILL_S + 2.5 + 0.1 * i, ops.CONTROLLER, model=name, cluster="cobalt")
            )
    found.append(_event(ops.LOAD_STOP, world.seconds - KILL_S))
    return sorted(found, key=lambda e: e.t_intended)


def _prometheus(world: _World) -> list[Op]:
    seconds = np.arange(-KILL_S, world.seconds - KILL_S)

    def series(values: NDArray[Any], keep: NDArray[np.bool_] | None = None, **labels: str) -> dict[str, Any]:
        rows = keep if keep is not None else np.ones(len(seconds), np.bool_)
        t_ns = [_at(float(t)) for t in seconds[rows]]
        return {"labels": labels, "t_ns": t_ns, "values": [float(v) for v in values[rows]]}

    alive = (seconds < 0) | (seconds > BACK_S - KILL_S + 1)
    ramp = np.clip((seconds - 1.2) / 4, 0, 1)
    later = np.clip((seconds - (BACK_S - KILL_S) - 2) / 4, 0, 1)
    queries = {
        "weight_bytes": [
            series(4e8 + 6e8 * ramp, cluster="amber", source="store"),
            series(4e8 + 2e8 * ramp, cluster="jade", source="peer"),
            series(np.where(seconds < 0, 5e8, 5e8 * later), alive, cluster="cobalt", source="store"),
        ],
        "cache_requests": [
            series(40 + 10 * ramp, cluster="amber", tier="local", result="hit"),
            series(10 + 8 * ramp, cluster="jade", tier="peer", result="miss"),
            series(12 + 30 * ramp, cluster="amber", tier="store", result="miss"),
        ],
        "gpus_allocated": [
            series(10.0 + 4 * (ramp > 0.1), cluster="amber"),
            series(9.0 + 4 * (ramp > 0.1), cluster="jade"),
            series(np.full(len(seconds), 10.0), alive, cluster="cobalt"),
        ],
    }
    return [
        _event(ops.QUERY, world.seconds - KILL_S, ops.PROMETHEUS, detail={"name": k, "query": k, "series": v})
        for k, v in queries.items()
    ]


def _header(world: _World, prometheus: bool) -> RunHeader:
    share = 1 / len(world.names)
    models = tuple(
        ModelFacts(name, "chat", group, 350_000_000, 2, 2, 5, share, "davinci" if name != "davinci" else "")
        for name, group in zip(world.names, world.classes, strict=True)
    )
    clusters = tuple(
        ClusterFacts(c, (NodeFacts(f"{c}-n1", 8), NodeFacts(f"{c}-n2", 8)), f"http://{c}/readyz", ()) for c in CLUSTERS
    )
    forecast = Forecast(
        "cobalt", 20, 24,
        tuple(ModelForecast(n, 1, 1, True, "", 350_000_000, 2.0) for n in world.names[:6]),
    )  # fmt: skip
    return RunHeader(
        run_id="cluster-loss-20261124T081500Z-41", drill="cluster-loss", description="Lose one cluster of three.",
        seed=world.seed, environment="local", anchor=Anchor(START - 3_000_000_000, 1_795_508_100_000_000_000),
        command_line=("blackstart", "run", "cluster-loss", "--seed", "41"),
        versions=(("blackstart", "0.1.0"), ("python", "3.11.2"), ("locust", "2.47.0")), commit="ab12cd", dirty=True,
        host=(("cores", "2"), ("system", "Linux")),
        fleet=FleetFacts("three-clusters", clusters, models, (), "connect 0.25 s, read 5 s", (("headroom", "1"),)),
        target=Target("http://127.0.0.1:8080"), mix=Mix(tuple(MixEntry(n, "chat", share) for n in world.names)),
        load=LoadSpec("constant", world.rate_rps, 500.0, 0.9, 5.0, world.seconds, world.seed),
        steps=(), faults=(FaultMark("power loss", "cobalt", "refused", "power loss"),), objectives=(),
        forecast=forecast, prometheus=prometheus,
    )  # fmt: skip


def _recovery(outage: float, group: str, sent: int, bad: int, unknown: int, gap: float) -> ModelRecovery:
    if outage == 0:
        return ModelRecovery(
            None, None, None, None, None, 0.012, None, None, None, None, True, model_class=group, sent=sent,
        )  # fmt: skip
    if not np.isfinite(outage):
        return ModelRecovery(
            0.92, 1.12, None, None, None, 0.4, (39.9, None), (39.95, None), None, None, False, model_class=group,
            victims=1, sent=sent, bad=bad, unknown=unknown, unplaceable="needs 4 GPUs; free: amber-n1 2, jade-n1 1",
        )  # fmt: skip
    high = outage + gap
    return ModelRecovery(
        0.92, 1.12, 1.3, round(outage - 0.5, 3), round(outage - 0.25, 3), 0.31 + 0.01 * outage,
        (outage, high - gap / 3),
        (outage, high), round(high + 4, 3), round(BACK_S - KILL_S + 5, 3), False, hold_certified_s=round(high + 3, 3),
        model_class=group, victims=1, sent=sent, bad=bad, unknown=unknown, failback_bad=0,
        bounds={"weights": (outage - 0.6, outage - 0.5), "detected": (0.88, 0.92)},
    )  # fmt: skip


def _result(world: _World, run: Run, outcome: Outcome) -> Result:
    load = run.load
    in_fault = (load.t_intended >= _at(0)) & (load.t_intended < _at(BACK_S - KILL_S))
    fail, unknown = load.outcome.where("fail"), load.outcome.where("unknown")
    gap = len(world.names) / world.rate_rps * 1.4
    models = {}
    for i, name in enumerate(world.names):
        mine = in_fault & load.model.where(name)
        sent, bad, lost_ = (int(np.count_nonzero(mine & m)) for m in (mine, fail, unknown))
        models[name] = _recovery(float(world.outage_s[i]), world.classes[i], sent, bad, lost_, gap)
    classes = {}
    for group in dict.fromkeys(world.classes):
        members = [m for m in models.values() if m.model_class == group]
        worst = max(
            members,
            key=_end,
        )
        totals = {k: sum(getattr(m, k) for m in members) for k in ("sent", "bad", "unknown", "victims")}
        classes[group] = replace(worst, model_class="", unplaceable="", **totals)
    everything = max(
        classes.values(),
        key=_end,
    )
    lost, total = int(np.count_nonzero(fail & in_fault)), len(load)
    fleet = replace(everything, sent=int(in_fault.sum()), bad=lost, first_success_s=0.012, ratio=0.99)
    reasons: tuple[str, ...] = ()
    if outcome == "fail":
        reasons = (
            f"{world.names[1]} did not recover while the fault lasted: needs 4 GPUs; free: amber-n1 2, jade-n1 1",
        )
    if outcome == "unknown":
        reasons = ("dropped 0.8 % of the sends (limit 0.1 %): the machine was too slow, so nothing is proven",)
    totals_ = Totals(total, int(np.count_nonzero(load.outcome.where("ok"))), int(np.count_nonzero(fail)),
                     int(np.count_nonzero(unknown)), lost)  # fmt: skip
    end = world.seconds - KILL_S
    windows = (
        WindowSpan("drill", "fleet", -KILL_S, end), WindowSpan("baseline", "fleet", -KILL_S, 0),
        WindowSpan("fault", "fleet", 0, min(BACK_S - KILL_S, end)),
        WindowSpan("failback", "fleet", min(BACK_S - KILL_S, end), end),
    )  # fmt: skip
    return Result(
        drill="cluster-loss", run_id=run.header.run_id, seed=world.seed, environment="local", verdict=outcome,
        reasons=reasons, headline=_headline(outcome, fleet, world), faults=_faults(), windows=windows, fleet=fleet,
        models=models, classes=classes, objectives=_objectives(world, models, fleet, lost, outcome),
        validity=_validity(total, outcome), totals=totals_,
        forecast=tuple(ForecastRow(n, True, bool(np.isfinite(world.outage_s[i])), 2.0, 2.4 + 0.1 * i, 1.2 + 0.05 * i)
                       for i, n in enumerate(world.names[:6])),
    )  # fmt: skip


def _end(model: ModelRecovery) -> float:
    """When it recovered; never counts as the latest."""
    if model.recovered_s is None:
        return 0.0
    return np.inf if model.recovered_s[1] is None else model.recovered_s[1]


def _headline(outcome: Outcome, fleet: ModelRecovery, world: _World) -> str:
    if outcome == "fail":
        return f"cobalt lost power at 20.0 s; {world.names[1]} never served again before the cluster came back."
    if outcome == "unknown":
        return "cobalt lost power at 20.0 s; whether the fleet recovered in time cannot be told from this run."
    end = fleet.recovered_s[1] if fleet.recovered_s else 0
    return f"cobalt lost power at 20.0 s. The last model was within its objectives after {end:.1f} s and stayed there."


def _faults() -> tuple[FaultResult, ...]:
    signals = (
        Signal("processes", True, "0 of 9 processes of cobalt alive"),
        Signal("api", True, "GET /readyz: connection refused"),
        Signal("data plane", True, "2 of 2 nodes refuse connections"),
    )
    seen = (Seen("data", "refused", 78, 0.3), Seen("api", "refused", 39, 0.2))
    heal = BACK_S - KILL_S
    return (FaultResult("power loss", "cobalt", "refused", 0.0, 0.21, heal, heal + 1.42, signals, seen),)


def _objectives(
    world: _World, models: dict[str, ModelRecovery], fleet: ModelRecovery, lost: int, outcome: Outcome
) -> tuple[ObjectiveResult, ...]:
    def one(
        name: str,
        scope: str,
        bounds: tuple[float, float | None] | None,
        limit: float,
        unit: str,
        text: str,
        **more: Any,
    ) -> ObjectiveResult:
        high = bounds[1] if bounds else 0.0
        verdict = "fail" if high is None or high > limit else "pass"
        if outcome == "unknown" and name == "recovered":
            verdict = "unknown"
        return ObjectiveResult(
            name, scope, more.get("indicator", name), "fault", high, bounds, limit, unit, verdict,  # type: ignore[arg-type]
            text, more.get("evidence", "299 good of 299 in the hold"), more.get("playbook", ""),
        )  # fmt: skip

    found = []
    for scope, m in [("fleet", fleet), *((f"model:{n}", m) for n, m in models.items())]:
        text = (
            "no bad op"
            if m.unaffected or m.recovered_s is None
            else f"{m.recovered_s[1]:.2f} s"
            if m.recovered_s[1]
            else "> 40.0 s"
        )
        found.append(one("recovered", scope, m.recovered_s, 10, "s", text, playbook="docs/playbooks/headroom.md"))
    found.append(one("reallocated", "fleet", (4.9, 5.0) if outcome != "fail" else (39.9, None), 6, "s", "5.0 s"))
    found.append(
        one("lost", "fleet", (lost, lost), 400, "requests", f"{lost}", evidence="bad answers while the fault lasted")
    )
    found.append(
        one("latency", "bystanders", (88.0, 91.0), 250, "ms", "p95 91 ms", evidence="3,112 answers in the fault window")
    )
    found.append(one("no_dip", "fleet", (0, 0), 0, "relapses", "no relapse"))
    return tuple(found)


def _validity(total: int, outcome: Outcome) -> Validity:
    dropped = round(total * 0.008) if outcome == "unknown" else 0
    checks = (
        Check("victim verified down", "pass", "3 of 3 independent signals"),
        Check("requests in flight", "pass", "14 requests were in flight on cobalt at the injection"),
        Check("nothing dropped", "unknown" if dropped else "pass", f"{dropped:,} of {total:,} dropped (limit 0.1 %)"),
        Check("send lag", "pass", "p99 1.4 ms (limit 20 ms)"),
    )
    return Validity(
        total, total - dropped, dropped, 0, 0, dropped, 0, 0.4, 1.4, 6.2, 1.5, 1 - dropped / max(total, 1), checks
    )
