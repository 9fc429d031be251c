"""The chart section of the page: each chart with its finding, legend and table; or the sentence why there is none.

Called by html.py. Puts series, findings, tables and figures together; draws nothing itself (charts.py does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from assertions.case import Case
from assertions.result import Result
from reports import charts, findings, metrics, series, tables
from reports.charts import BLUE, GREY, ORANGE, RED, TEXT, Frame, Shade
from reports.facts import heal_of
from reports.metrics import Line
from reports.series import Bins
from reports.tables import Table
from reports.words import one_line, seconds


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the swatch has a ``form`` (line, box, dot, cross, triangle) besides its colour."""

    form: str
    colour: str
    style: str | None
    label: str


@dataclass(frozen=True)
class Chart:
    """One chart. ``figure`` None: ``absent`` says why. ``element`` is the id of the element that it is drawn into."""

    element: str
    title: str
    finding: str
    figure: Any
    keys: tuple[Key, ...] = ()
    table: Table | None = None
    note: str = ""
    absent: str = ""
    height_px: int = 200
    lane: bool = False


@dataclass(frozen=True)
class _Ground:
    """What the charts are made of: the run, what they share, and its bins, fine for drawing and coarse for tables."""

    case: Case
    result: Result
    frame: Frame
    bins: Bins
    coarse: Bins


def build(case: Case, result: Result) -> tuple[Chart, ...]:
    """All charts of the page in order."""
    load = case.load
    if not len(load):
        return (Chart("chart-none", "Charts", "", None, absent="Nothing was sent, so there is nothing to draw."),)
    bins, coarse = series.bin_load(load), series.bin_load(load, tables.MAX_BIN_ROWS)
    start, end = float(load.x_s.min()), float(load.x_s.max()) + bins.width_s / 2
    recovered = result.fleet.recovered_s if result.fleet else None
    recovered_s = recovered[1] if recovered else None
    shared = charts.frame(start, end, _shades(result, end), recovered_s, case.run.header.time_scale)
    ground = _Ground(case, result, shared, bins, coarse)
    drawn = [_latency(ground), _outcomes(ground), _shares(ground), *_weights(ground)]
    return (*([_lane(ground, end)] if result.faults else []), *drawn)


def _shades(result: Result, end_s: float) -> list[Shade]:
    found = [("fault", f.injected_s, end_s if f.heal_s is None else f.heal_s) for f in result.faults]
    kinds = {"failback": "failback", "relapse": "relapse", "dip": "relapse"}
    for window in result.windows[:2000]:
        if window.name in kinds and (window.name != "failback" or window.scope == "fleet"):
            found.append((kinds[window.name], window.start_s, min(window.end_s, end_s)))
    return found[:40]


def _lane(ground: _Ground, end_s: float) -> Chart:
    bars, words = [], []
    for fault in ground.result.faults[:8]:
        stop = fault.healed_s if fault.healed_s is not None else fault.heal_s
        name = f"{one_line(fault.cluster, 24)}: {one_line(fault.kind, 40)}"
        bars.append((name, fault.injected_s, end_s if stop is None else stop))
        name = f"{one_line(fault.cluster, 60) or 'no cluster'}: {one_line(fault.kind, 60)}"
        restore = "never" if fault.heal_s is None else f"at {seconds(fault.heal_s)}"
        words.append(f"{name} at {seconds(fault.injected_s)}, restore began {restore}")
    figure = charts.lane(ground.frame, bars)
    keys = (
        Key("box", ORANGE, "/", "fault, from injection to verified healing"),
        Key("box", ORANGE, "soft", "fault window"),
        Key("box", BLUE, "soft", "failback window"),
        Key("line", charts.MUTED, "dashed", "fleet recovered"),
    )
    finding = f"{'; '.join(words)}."
    return Chart("chart-lane", "Fault lane", finding, figure, keys, lane=True, height_px=figure.height)


def _latency(ground: _Ground) -> Chart:
    load, bins = ground.case.load, ground.bins
    rows, thinning = series.thin(load, series.edges_of(ground.result))
    limit = ground.case.run.header.load.good_within_ms
    keys = (
        *(Key("line", colour, dash, name) for name, (colour, dash, _) in charts.QUANTILES.items()),
        Key("dot", GREY, "", "good"),
        Key("cross", RED, "", "bad"),
        Key("triangle", GREY, "", "unknown"),
        Key("line", RED, "dashdot", f"good within {limit:g} ms"),
    )
    full = "every send" if thinning.drawn == thinning.total else f"{thinning.drawn:,} of {thinning.total:,} sends"
    near = "all that ended" if thinning.edges_in_full else "as many as fit, bad and slow ones first,"
    note = (
        f"Dots: {full}; {near} within {series.EDGE_S:g} s of an edge (injection, recovery, restore), evenly thinned "
        f"elsewhere. Lines: exact quantiles of complete answers, each {bins.width_s:g} s of intended send time. "
        "A send that never ended has no dot."
    )
    figure = charts.latency(ground.frame, load, bins, rows, limit)
    finding = findings.latency(load, bins, heal_of(ground.result))
    title, table = "Latency from the intended send", tables.latency(ground.coarse)
    return Chart("chart-latency", title, finding, figure, keys, table, note, height_px=320)


def _outcomes(ground: _Ground) -> Chart:
    boxes = (Key("box", colour, hatch or "", name) for name, (colour, hatch, _) in charts.OUTCOMES.items())
    keys = (*boxes, Key("line", TEXT, "dashed", "offered"))
    finding = findings.outcomes(ground.case.load, ground.bins)
    figure, table = charts.outcomes(ground.frame, ground.bins), tables.outcomes(ground.coarse)
    return Chart("chart-outcomes", "Requests a second by outcome", finding, figure, keys, table)


def _shares(ground: _Ground) -> Chart:
    served = series.by_cluster(ground.case, ground.bins)
    keys = tuple(Key("box", *charts.share_style(i, name), one_line(name, 40)) for i, name in enumerate(served.names))
    table = tables.shares(ground.coarse, series.by_cluster(ground.case, ground.coarse))
    victims = [fault.cluster for fault in ground.result.faults if fault.cluster]
    finding = findings.shares(ground.bins, served, victims)
    note = "“Nobody”: sends without a complete answer. Answers that came too late count for the cluster that gave them."
    figure = charts.shares(ground.frame, ground.bins, served)
    return Chart("chart-shares", "Traffic by the cluster that answered", finding, figure, keys, table, note)


def _weights(ground: _Ground) -> list[Chart]:
    found = metrics.read(ground.case)
    if not found:
        ran = ground.case.run.header.prometheus
        why = "Prometheus ran, but recorded none of these series." if ran else "No Prometheus ran."
        absent = f"{why} Weight bytes, cache hits and allocated GPUs of this run are not known, so they are not drawn."
        return [Chart("chart-weights", "Weights, caches and GPUs", "", None, absent=absent)]
    moved = metrics.lines(found, "weight_bytes", "source", metrics.increase)
    moved = moved or metrics.lines(found, "store_bytes", "store", metrics.increase)
    gpus = metrics.lines(found, "gpus_allocated", "cluster", metrics.level)
    bytes_chart = Chart(
        "chart-bytes",
        "Weight bytes by source",
        findings.weights(found),
        None,
        note="As Prometheus read it, once a second: up to that much later than the bytes came.",
    )
    hits_chart = Chart(
        "chart-hits",
        "Weight-cache hit ratio",
        findings.cache(found),
        None,
        note="A hit is answered from the node’s own cache, before any peer or store is asked; no request, no dot.",
    )
    gpus_chart = Chart(
        "chart-gpus",
        "GPUs allocated by cluster",
        findings.gpus(found, ground.case.edges.victims),
        None,
        note=f"A line, also a dead cluster’s, goes on for {metrics.STALE_S:g} s after its last answer to Prometheus.",
    )
    scaled = [(name, x, y / 1e6) for name, x, y in moved]
    hits, asked = metrics.hit_ratio(found), "weight-cache requests while this run lasted"
    return [
        _drawn(ground, bytes_chart, scaled, "MB since the start", "weight bytes"),
        _drawn(ground, hits_chart, hits, "% hits", asked, top=105.0, dots=True),
        _drawn(ground, gpus_chart, gpus, "GPUs", "allocated GPUs"),
    ]


def _drawn(
    ground: _Ground,
    chart: Chart,
    lines: Sequence[Line],
    y_label: str,
    what: str,
    top: float | None = None,
    dots: bool = False,
) -> Chart:
    """A chart with its lines; without any, the sentence that says so."""
    if not lines:
        absent = f"Prometheus recorded no {what}, so there is no chart."
        return replace(chart, finding="", note="", absent=absent)
    lines = lines[:8]
    figure = charts.lines(ground.frame, lines, y_label, top=top, dots=dots)
    keys = tuple(Key("line", *charts.line_style(i), one_line(name, 40)) for i, (name, _, _) in enumerate(lines))
    return replace(chart, figure=figure, keys=keys, table=tables.lines(lines), height_px=190)
