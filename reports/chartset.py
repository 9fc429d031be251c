"""The chart section of the page: each chart with its finding, legend and table; or the sentence why there is none.

Called by page.py. Puts series, findings, tables and figures together; draws nothing itself (charts.py does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assertions.result import FaultResult, Result
from history.reader import Run
from reports import charts, findings, metrics, series, tables
from reports.charts import BLUE, GREY, ORANGE, RED, TEXT, Frame, Shade
from reports.facts import heal_of
from reports.metrics import Line
from reports.series import Bins, Load
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


def build(run: Run, result: Result, load: Load, origin_ns: int) -> tuple[Chart, ...]:
    """All charts of the page in order."""
    if not len(load):
        return (Chart("chart-none", "Charts", "", None, absent="Nothing was sent, so there is nothing to draw."),)
    bins = series.bin_load(load)
    coarse = series.bin_load(load, tables.MAX_BIN_ROWS)
    start, end = float(load.x_s.min()), float(load.x_s.max()) + bins.width_s / 2
    shared = charts.frame(start, end, _shades(result, end), _marks(result), run.header.time_scale)
    heal = heal_of(result)
    victims = [fault.cluster for fault in result.faults if fault.cluster]
    return (
        *_lane(shared, result.faults, end),
        _latency(run, result, shared, load, bins, coarse, heal),
        _outcomes(shared, load, bins, coarse),
        _shares(run, shared, load, bins, coarse, victims),
        *_weights(run, shared, origin_ns),
    )


def _shades(result: Result, end_s: float) -> list[Shade]:
    found = []
    for fault in result.faults:
        stop = fault.heal_s if fault.heal_s is not None else end_s
        found.append(Shade("fault", "fault", fault.injected_s, stop))
    kinds = {"failback": "failback", "relapse": "relapse", "dip": "relapse"}
    for window in result.windows[:2000]:
        if window.name in kinds and (window.name != "failback" or window.scope == "fleet"):
            found.append(
                Shade(
                    kinds[window.name],
                    one_line(f"{window.name} of {window.scope}", 80),
                    window.start_s,
                    min(window.end_s, end_s),
                )
            )
    return found[:40]


def _marks(result: Result) -> list[tuple[str, float]]:
    recovered = result.fleet.recovered_s if result.fleet else None
    return [("recovered", recovered[1])] if recovered is not None and recovered[1] is not None else []


def _lane(shared: Frame, faults: Sequence[FaultResult], end_s: float) -> tuple[Chart, ...]:
    if not faults:
        return ()
    bars = []
    for fault in faults[:8]:
        stop = fault.healed_s if fault.healed_s is not None else fault.heal_s
        bars.append(Shade("fault", fault.kind, fault.injected_s, end_s if stop is None else stop))
    figure = charts.lane(shared, bars, [fault.cluster for fault in faults[:8]])
    keys = (
        Key("box", ORANGE, "/", "fault, from injection to verified healing"),
        Key("box", ORANGE, "soft", "fault window"),
        Key("box", BLUE, "soft", "failback window"),
        Key("line", charts.MUTED, "dashed", "fleet recovered"),
    )
    words = "; ".join(
        f"{one_line(f.cluster, 60) or 'no cluster'}: {one_line(f.kind, 60)} at {seconds(f.injected_s)}, restore began "
        f"{'at ' + seconds(f.heal_s) if f.heal_s is not None else 'never'}"
        for f in faults[:8]
    )
    return (Chart("chart-lane", "Fault lane", f"{words}.", figure, keys, lane=True, height_px=figure.height),)


def _latency(
    run: Run, result: Result, shared: Frame, load: Load, bins: Bins, coarse: Bins, heal: float | None
) -> Chart:
    rows, thinning = series.thin(load, series.edges_of(result))
    limit = run.header.load.good_within_ms
    keys = (
        Key("line", BLUE, "solid", "p50"),
        Key("line", ORANGE, "dashed", "p95"),
        Key("line", TEXT, "dotted", "p99"),
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
    figure = charts.latency(shared, load, bins, rows, limit)
    finding = findings.latency(load, bins, heal)
    title = "Latency from the intended send"
    return Chart("chart-latency", title, finding, figure, keys, tables.latency(coarse), note, height_px=320)


def _outcomes(shared: Frame, load: Load, bins: Bins, coarse: Bins) -> Chart:
    keys = (
        Key("box", BLUE, "", "good"),
        Key("box", RED, "/", "bad"),
        Key("box", GREY, "x", "unknown"),
        Key("line", TEXT, "dashed", "offered"),
    )
    finding = findings.outcomes(load, bins)
    figure = charts.outcomes(shared, bins)
    return Chart("chart-outcomes", "Requests a second by outcome", finding, figure, keys, tables.outcomes(coarse))


def _shares(run: Run, shared: Frame, load: Load, bins: Bins, coarse: Bins, victims: Sequence[str]) -> Chart:
    served = series.by_cluster(run, load, bins)
    keys = [
        Key("box", *charts.share_style(number, name), one_line(name, 40)) for number, name in enumerate(served.names)
    ]
    table = tables.shares(coarse, series.by_cluster(run, load, coarse))
    finding = findings.shares(bins, served, victims)
    note = "“Nobody”: sends without a complete answer. Answers that came too late count for the cluster that gave them."
    figure = charts.shares(shared, bins, served)
    return Chart("chart-shares", "Traffic by the cluster that answered", finding, figure, tuple(keys), table, note)


def _weights(run: Run, shared: Frame, origin_ns: int) -> list[Chart]:
    found = metrics.read(run, origin_ns)
    if not found:
        why = "Prometheus ran, but recorded none of these series." if run.header.prometheus else "No Prometheus ran."
        absent = f"{why} Weight bytes, cache hits and allocated GPUs of this run are not known, so they are not drawn."
        return [Chart("chart-weights", "Weights, caches and GPUs", "", None, absent=absent)]
    charts_ = [_bytes_chart(shared, found), _hits_chart(shared, found), _gpus_chart(shared, found)]
    return [chart for chart in charts_ if chart is not None]


def _bytes_chart(shared: Frame, found: metrics.Found) -> Chart:
    title, element = "Weight bytes by source", "chart-bytes"
    for name, label in (("weight_bytes", "source"), ("store_bytes", "store")):  # noqa: B007 - both are used below
        if found.get(name):
            break
    else:
        return Chart(element, title, "", None, absent="Prometheus recorded no weight bytes, so there is no chart.")
    grid = metrics.grid_of(found[name])
    lines = metrics.summed(found[name], label, grid, metrics.increase)[:8]
    scaled: list[Line] = [(n, x, y / 1e6) for n, x, y in lines]
    figure = charts.lines(shared, scaled, "MB since the start")
    finding = findings.weights(found) if name == "weight_bytes" else "Bytes that weight stores sent."
    return Chart(element, title, finding, figure, _keys(scaled), tables.lines(scaled), height_px=190)


def _hits_chart(shared: Frame, found: metrics.Found) -> Chart:
    title, element = "Weight-cache hit ratio", "chart-hits"
    line = metrics.hit_ratio(found.get("cache_requests", ())) if found.get("cache_requests") else None
    if line is None or not np.any(np.isfinite(line[2])):
        absent = "Prometheus recorded no weight-cache requests while this run lasted, so there is no chart."
        return Chart(element, title, "", None, absent=absent)
    figure = charts.lines(shared, [line], "% hits", top=105.0, dots=True)
    note = "A hit is answered from the node’s own cache, before any peer or store is asked; no request, no dot."
    return Chart(
        element, title, findings.cache(found), figure, _keys([line]), tables.lines([line]), note, height_px=190
    )


def _gpus_chart(shared: Frame, found: metrics.Found) -> Chart:
    title, element = "GPUs allocated by cluster", "chart-gpus"
    gpus = found.get("gpus_allocated", ())
    if not gpus:
        return Chart(element, title, "", None, absent="Prometheus recorded no allocated GPUs, so there is no chart.")
    lines = metrics.summed(gpus, "cluster", metrics.grid_of(gpus), metrics.level)[:8]
    figure = charts.lines(shared, lines, "GPUs")
    note = "A line stops when its cluster no longer answers Prometheus."
    return Chart(element, title, findings.gpus(found), figure, _keys(lines), tables.lines(lines), note, height_px=190)


def _keys(lines: Sequence[Line]) -> tuple[Key, ...]:
    return tuple(Key("line", *charts.line_style(i), one_line(name, 40)) for i, (name, _, _) in enumerate(lines))
