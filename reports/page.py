"""The page's view-model: everything the template shows, as plain text, tables and drawings. No markup of its own.

Called by html.py. Tables are cut at fixed lengths (and say so), so the page stays below its size for any run.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from assertions.result import Check, ForecastRow, ModelRecovery, ObjectiveResult, Result
from history.reader import Run
from reports import chartset, clocks, series, strips, tables, timeline
from reports.chartset import Chart
from reports.facts import budget_of, lost_of, objective_of, recovered_of, worst_first
from reports.strips import Axis, Drawing
from reports.tables import Table
from reports.timeline import Post
from reports.words import GLYPHS, NONE, block, count, interval, listed, measure, one_line, percent, seconds, span

MAX_STRIPS = 15
MAX_WORST_IN_CLASS = 3
MAX_CLASSES = 20
MAX_MODEL_ROWS = 200
MAX_OBJECTIVE_ROWS = 200
MAX_FORECAST_ROWS = 100
MAX_REASONS = 30
MAX_DRILL_CHARS = 60_000


@dataclass(frozen=True)
class Row:
    """One phase strip with its name and what stands under the name."""

    name: str
    sub: str
    drawing: Drawing
    heading: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Strips:
    """The strips, their axis, and what is not drawn."""

    ruler: Drawing
    rows: tuple[Row, ...]
    table: Table
    note: str


@dataclass(frozen=True)
class Line:
    """A row of the objectives table."""

    name: str
    scope: str
    measured: str
    bounds: str
    limit: str
    verdict: str
    glyph: str
    evidence: str
    playbook: str


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    title: str
    subtitle: tuple[str, ...]
    verdict: str
    glyph: str
    figures: tuple[tuple[str, str], ...]
    headline: str
    reasons: tuple[str, ...]
    strips: Strips | None
    objectives: tuple[Line, ...]
    objectives_note: str
    checks: tuple[tuple[str, str, str, str], ...]
    validity: tuple[tuple[str, str], ...]
    forecast: Table | None
    forecast_note: str
    faults: tuple[Fault, ...]
    charts: tuple[Chart, ...]
    posts: tuple[Post, ...]
    replay: clocks.Replay | None
    errors: Table
    slowest: Table
    new_connections: Table
    steady: Table
    method: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    drill_text: str
    drill_cut: str
    rerun: str
    history_sha256: str


@dataclass(frozen=True)
class Fault:
    """A fault in words, with the signals that verified it and what the cluster prober saw."""

    title: str
    when: str
    signals: tuple[tuple[str, str, str, str], ...]
    seen: Table


def build(run: Run, result: Result, drill_text: str, history_sha256: str) -> Page:
    """Reads a run and its result into the view-model."""
    origin = series.origin_ns(run)
    load = series.read_load(run, origin)
    limit = objective_of(result, "recovered")
    forecast, forecast_note = _forecast(run, result)
    objectives, objectives_note = _objectives(result.objectives)
    cut = len(drill_text) - MAX_DRILL_CHARS
    posts = timeline.posts(run, result, origin)[:60]
    return Page(
        title=one_line(result.drill, 80),
        subtitle=_subtitle(run, result),
        verdict=result.verdict,
        glyph=GLYPHS[result.verdict],
        figures=_figures(result, limit),
        headline=one_line(result.headline, 600),
        reasons=_reasons(result),
        strips=_strips(result, limit.limit if limit else None, run.header.time_scale),
        objectives=objectives,
        objectives_note=objectives_note,
        checks=tuple(_check(check) for check in result.validity.checks[:60]),
        validity=_validity(result, run),
        forecast=forecast,
        forecast_note=forecast_note,
        faults=tuple(_fault(result, i) for i in range(min(len(result.faults), 8))),
        charts=chartset.build(run, result, load, origin),
        posts=posts,
        replay=clocks.build(run, result, load, posts, origin),
        errors=tables.errors(load),
        slowest=tables.slowest(load),
        new_connections=tables.new_connections(result),
        steady=tables.steady_state(load, result),
        method=_method(run),
        environment=_environment(run, result),
        drill_text=block(drill_text, MAX_DRILL_CHARS),
        drill_cut=f"{cut:,} more characters are in drill.py." if cut > 0 else "",
        rerun=one_line(shlex.join(run.header.command_line), 2000),
        history_sha256=history_sha256,
    )


def _subtitle(run: Run, result: Result) -> tuple[str, ...]:
    header = run.header
    victims = listed(dict.fromkeys(fault.cluster for fault in result.faults if fault.cluster))
    started = timeline.wall_clock(run, header.anchor.monotonic_ns, "%Y-%m-%dT%H:%M:%SZ")
    commit = one_line(header.commit, 40) or "unknown"
    return (
        victims or "no victim",
        f"run {started}",
        f"environment {one_line(result.environment, 40)}",
        f"seed {result.seed}",
        f"commit {commit}{' (dirty)' if header.dirty else ''}",
    )


def _figures(result: Result, limit: ObjectiveResult | None) -> tuple[tuple[str, str], ...]:
    recovered = recovered_of(result)
    fleet = result.fleet
    first = seconds(fleet.first_success_s) if fleet else NONE
    return (
        ("recovery", recovered),
        ("first success", first),
        ("lost", lost_of(result)),
        ("loss budget", budget_of(result)),
    )


def _reasons(result: Result) -> tuple[str, ...]:
    if result.verdict == "pass":
        return ()
    shown = [one_line(reason, 500) for reason in result.reasons[:MAX_REASONS]]
    left = len(result.reasons) - MAX_REASONS
    return (*shown, f"… and {count(left, 'more reason')} in result.json") if left > 0 else tuple(shown)


def _strips(result: Result, limit_s: float | None, time_scale: float) -> Strips | None:
    if not result.models:
        return None
    heal = chartset.heal_of(result)
    ends = [w.end_s for w in result.windows if w.name == "fault"] or [w.end_s for w in result.windows] or [1.0]
    chosen, note = _choose(result)
    axis = strips.axis_for([m for _, m, _ in chosen], limit_s, max(ends), heal)
    axis = replace(axis, time_scale=time_scale)
    rows = tuple(_row(name, recovery, heading, axis) for name, recovery, heading in chosen)
    return Strips(strips.ruler(axis), rows, _model_table(result), note)


def _choose(result: Result) -> tuple[list[tuple[str, ModelRecovery, bool]], str]:
    """(name, recovery, is a class) for each strip: all models, or classes each with its worst models."""
    ranked = worst_first(result.models)
    if len(ranked) <= MAX_STRIPS or not result.classes:
        left = len(ranked) - 60
        note = f"{left:,} models are not drawn; the table has them." if left > 0 else ""
        return [(name, m, False) for name, m in ranked[:60]], note
    chosen: list[tuple[str, ModelRecovery, bool]] = []
    drawn = 0
    for name, recovery in worst_first(result.classes)[:MAX_CLASSES]:
        members = [(n, m) for n, m in ranked if m.model_class == name]
        chosen.append((f"{name} ({count(len(members), 'model')})", recovery, True))
        hit = [(n, m) for n, m in members if not m.unaffected]
        if len(members) > 1:
            chosen += [(n, m, False) for n, m in hit[:MAX_WORST_IN_CLASS]]
            drawn += min(len(hit), MAX_WORST_IN_CLASS)
    note = (
        f"{len(ranked):,} models: one strip a class, worst first, each with its "
        f"{MAX_WORST_IN_CLASS} worst models; {len(ranked) - drawn:,} models are only in the table."
    )
    return chosen, note


def _row(name: str, recovery: ModelRecovery, heading: bool, axis: Axis) -> Row:
    shown = one_line(name, 60)
    parts = []
    if recovery.victims:
        parts.append(f"lost {count(recovery.victims, 'replica')}")
    if not recovery.unaffected:
        parts.append(f"{recovery.bad:,} bad of {recovery.sent:,}")
    if not heading and recovery.model_class and recovery.model_class != name:
        parts.insert(0, one_line(recovery.model_class, 40))
    trouble = f"no room: {one_line(recovery.unplaceable, 140)}" if recovery.unplaceable else ""
    if recovery.relapsed:
        trouble = f"relapsed after recovery. {trouble}".strip()
    return Row(shown, " · ".join(parts), strips.strip(shown, recovery, axis), heading, trouble)


def _model_table(result: Result) -> Table:
    ranked = worst_first(result.models)
    rows = []
    for name, m in ranked[:MAX_MODEL_ROWS]:
        instants = [_instant(m, key) for key in ("detected", "decided", "scheduled", "weights", "ready")]
        back, recovered = interval(m.service_back_s), interval(m.recovered_s)
        if m.unaffected:
            back = recovered = "unaffected"
        rest = [seconds(m.hold_certified_s), _instant(m, "warm"), _instant(m, "full_capacity")]
        cells = (one_line(name, 80), one_line(m.model_class, 40), *instants, seconds(m.first_success_s))
        rows.append((*cells, back, recovered, *rest, f"{m.bad:,}", f"{m.unknown:,}", f"{m.sent:,}"))
    left = len(ranked) - MAX_MODEL_ROWS
    note = f"{left:,} better models are left out here; result.json has all." if left > 0 else ""
    head = ("model", "class", "detected", "decided", "scheduled", "weights", "ready", "first success", "service back")
    tail = ("recovered", "hold certified", "warm", "full capacity", "bad", "unknown", "sent")
    return Table((*head, *tail), tuple(rows), note, text_columns=2)


def _instant(model: ModelRecovery, key: str) -> str:
    value = getattr(model, f"{key}_s")
    bounds = model.bounds.get(key)
    return interval(bounds) if bounds is not None else seconds(value)


def _objectives(objectives: tuple[ObjectiveResult, ...]) -> tuple[tuple[Line, ...], str]:
    order = {"fail": 0, "unknown": 1, "pass": 2}
    ranked = objectives
    if len(objectives) > MAX_OBJECTIVE_ROWS:
        ranked = tuple(sorted(objectives, key=lambda o: order[o.verdict]))
    left = len(ranked) - MAX_OBJECTIVE_ROWS
    note = f"{left:,} more objectives are left out here (failed ones first); result.json has all." if left > 0 else ""
    return tuple(_line(o) for o in ranked[:MAX_OBJECTIVE_ROWS]), note


def _line(o: ObjectiveResult) -> Line:
    text = one_line(o.text, 160)
    exact = o.bounds is None or o.bounds[0] == o.bounds[1]
    bounds = "" if exact else span(o.bounds, o.unit)
    return Line(
        name=one_line(o.name, 80),
        scope=one_line(o.scope, 80),
        measured=text,
        bounds="" if bounds == text else bounds,
        limit=measure(o.limit, o.unit),
        verdict=o.verdict,
        glyph=GLYPHS[o.verdict],
        evidence=one_line(o.evidence, 300),
        playbook=one_line(o.playbook, 300) if o.verdict == "fail" else "",
    )


def _check(check: Check) -> tuple[str, str, str, str]:
    return GLYPHS[check.verdict], check.verdict, one_line(check.name, 100), one_line(check.detail, 400)


def _validity(result: Result, run: Run) -> tuple[tuple[str, str], ...]:
    v = result.validity

    def ms(value: float | None) -> str:
        return NONE if value is None else f"{value:.2f} ms"

    lag = f"p50 {ms(v.lag_ms_p50)}, p99 {ms(v.lag_ms_p99)}, worst {ms(v.lag_ms_max)}"
    sent = NONE if v.achieved_ratio is None else f"{100 * v.achieved_ratio:.2f} % of the plan"
    return (
        ("sends scheduled", f"{v.scheduled:,}"),
        ("sent", sent),
        ("recorded", f"{v.recorded:,} ({percent(v.recorded, v.scheduled)} of the plan)"),
        ("dropped", f"{v.dropped:,}"),
        ("without a record", f"{v.no_record:,}"),
        ("unknown outcomes", f"{v.unknown:,}"),
        ("duplicates", f"{v.duplicates:,}"),
        ("damaged lines", f"{v.damaged_lines:,}"),
        ("send lag", lag),
        ("worst send lag near edges", ms(v.lag_ms_near_edges)),
    )


def _forecast(run: Run, result: Result) -> tuple[Table | None, str]:
    if not result.forecast:
        return None, "This run has no forecast to compare with."
    shown = result.forecast[:MAX_FORECAST_ROWS]
    rows: tuple[tuple[str, ...], ...] = tuple(_forecast_row(row) for row in shown)
    left = len(result.forecast) - MAX_FORECAST_ROWS
    forecast = run.header.forecast
    said = ""
    if forecast is not None:
        said = (
            f"If {one_line(forecast.victim, 60)} goes, its replicas need {forecast.gpus_needed:,} GPUs and the "
            f"survivors have {forecast.gpus_free:,} free. "
            "Reload is when its bytes are there if all downloads share the store and the links fairly; the last model "
            "cannot be sooner, the others can (a ratio below 1)."
        )
    note = f"{left:,} more models are left out here." if left > 0 else ""
    head: tuple[str, ...] = (
        "model",
        "fits: forecast",
        "fits: actual",
        "why not",
        "reload: forecast",
        "reload: actual",
        "ratio",
    )
    if not any(row[3] for row in rows):
        head, rows = head[:3] + head[4:], tuple(row[:3] + row[4:] for row in rows)
    return Table(head, rows, note, text_columns=len(head) - 3), said


def _forecast_row(row: ForecastRow) -> tuple[str, ...]:
    fits = {True: "✓ fits", False: "✗ does not fit", None: "? not seen"}
    return (
        one_line(row.model, 80),
        fits[row.fits_forecast] if row.fits_forecast is not None else "? only bounds",
        fits[row.fits_actual],
        one_line(row.reason, 160),
        seconds(row.reload_s_forecast),
        seconds(row.reload_s_actual),
        NONE if row.ratio is None else f"{row.ratio:.1f}×",
    )


def _fault(result: Result, number: int) -> Fault:
    fault = result.faults[number]
    parts = [f"injected at {seconds(fault.injected_s)}"]
    parts.append(f"verified at {seconds(fault.verified_s)}" if fault.verified_s is not None else "never verified")
    parts.append(f"restore began at {seconds(fault.heal_s)}" if fault.heal_s is not None else "never restored")
    if fault.heal_s is not None:
        parts.append(
            f"verified back at {seconds(fault.healed_s)}" if fault.healed_s is not None else "not verified back"
        )
    signals = tuple(
        ("✓" if s.ok else "✗", "yes" if s.ok else "no", one_line(s.name, 80), one_line(s.seen, 200))
        for s in fault.signals[:40]
    )
    rows = tuple(
        (one_line(s.plane, 40), one_line(s.error, 80) or "answered", f"{s.count:,}", f"{s.median_ms:,.1f} ms")
        for s in fault.seen[:40]
    )
    where = f" of {one_line(fault.cluster, 60)}" if fault.cluster else ""
    title = f"{one_line(fault.kind, 60)}{where}, signature {one_line(fault.signature, 60) or 'none'}"
    return Fault(title, ", ".join(parts) + ".", signals, Table(("plane", "answer", "count", "median"), rows, "", 2))


def _method(run: Run) -> tuple[str, ...]:
    load = run.header.load
    gateway = one_line(run.header.fleet.gateway_timeouts, 200) or "not told"
    return (
        "Open loop: every request is sent at its planned time whatever the answers do, and its latency counts from "
        "that time. Charts and indicators are indexed by it.",
        f"Good: answered completely and correctly within {load.good_within_ms:g} ms of the intended time. Bad: "
        "everything else that is known. Unknown: what the harness does not know; verdicts are computed with unknown "
        "as good and as bad, and where the two differ the verdict is unknown.",
        "Service back (the system’s view) is the interval from the intended time of the last bad request to the first "
        "byte of the first good one; recovered (the users’ view) ends at that good request’s intended time. Both "
        "stand at the start of the first hold that proves the promised ratio at 95 % confidence.",
        f"Clocks: one monotonic clock of one host, one wall-clock anchor. Client time-outs: connect "
        f"{load.connect_timeout_s:g} s, total {load.total_timeout_s:g} s. Gateway time-outs: {gateway}.",
        f"Load: {load.shape}, {load.rate_rps:g} requests a second, seed {load.seed}.",
        "Quantiles are exact, nearest rank.",
    )


def _environment(run: Run, result: Result) -> tuple[tuple[str, str], ...]:
    header = run.header
    fleet = header.fleet
    nodes = sum(len(cluster.nodes) for cluster in fleet.clusters)
    gpus = sum(node.gpus for cluster in fleet.clusters for node in cluster.nodes)
    rows = [
        ("run", result.run_id),
        ("environment", result.environment),
        ("entry point", header.target.entry_url),
        ("fleet", f"{fleet.name}: {len(fleet.clusters)} clusters, {count(nodes, 'node')}, {gpus} GPUs, "
                  f"{count(len(fleet.models), 'model')}"),
        ("Prometheus", "recorded" if header.prometheus else "absent"),
        *((f"switch {name}", value) for name, value in fleet.switches),
        *((f"version of {name}", value) for name, value in header.versions),
        *((f"host: {name}", value) for name, value in header.host),
        *(("note", note) for note in header.notes),
    ]  # fmt: skip
    return tuple((one_line(name, 60), one_line(value, 300)) for name, value in rows[:80])
