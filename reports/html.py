"""``report.html``: one file that needs nothing else, byte-identical for the same history.

Called by ``write_all`` and ``blackstart report``. The template escapes every text; the page's own content security
policy forbids everything but its inline script and style. No clock, no random ids.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from assertions.case import Case
from assertions.result import Result
from history.reader import Run
from reports import bokehdoc, charts, chartset, clocks, strips, timeline
from reports.chartset import Chart
from reports.facts import objective_of
from reports.forms import template

MAX_BYTES = 2_000_000
CSP = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def render(run: Run, result: Result, drill_text: str, history_sha256: str = "") -> bytes:
    """The page in UTF-8, at most ``MAX_BYTES``: what does not fit is left out, charts last, and the page says so.

    ``history_sha256`` is that of the history file, "" if not merged.
    """
    case, header = Case.of(run), run.header
    posts = timeline.posts(case, result)[:60]
    limit = objective_of(result, "recovered")
    given: dict[str, object] = {
        "header": header,
        "forecast": header.forecast_of(case.edges.victims),
        "result": result,
        "validity": result.validity,
        "load": case.load,
        "case": case,
        "started": timeline.wall_clock(run, header.anchor.monotonic_ns, "%Y-%m-%dT%H:%M:%SZ"),
        "command": shlex.join(header.command_line),
        "history_sha256": history_sha256,
        "posts": posts,
        "strips": strips.build(result, limit.limit if limit else None, header.time_scale) if result.models else None,
        "replay": clocks.build(case, result, posts),
        "csp": CSP,
        "dark": charts.DARK,
        "colours": charts.CSS_NAMES,
    }
    drawn = chartset.build(case, result)
    data = _page(given, drawn, drill_text, "")
    if len(data) > MAX_BYTES:
        absent = "Left out for size: the drill's text is in drill.py."
        data = _page(given, drawn, "", absent)
    if len(data) > MAX_BYTES:
        large = f"With charts this page would be larger than {MAX_BYTES / 1e6:g} MB; its tables have the figures."
        data = _page(given, [replace(c, figure=None, absent=c.absent or large) for c in drawn], "", absent)
    return data


def _page(given: dict[str, object], drawn: Sequence[Chart], drill_text: str, drill_absent: str) -> bytes:
    figures = {chart.element: chart.figure for chart in drawn if chart.figure is not None}
    text = template("report.html.j2").render(
        **given,
        charts=drawn,
        drill_text=drill_text,
        drill_absent=drill_absent,
        bokeh_script=Markup(bokehdoc.script()) if figures else "",
        document=Markup(bokehdoc.document_json(figures)) if figures else "",
    )
    return text.encode("utf-8", "replace")
