"""``report.html``: one file that needs nothing else, byte-identical for the same history.

Called by ``write_all`` and ``blackstart report``. The template escapes every text; the page's own content security
policy forbids everything but its inline script and style. No clock, no random ids.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from assertions.result import Result
from history.reader import Run
from reports import bokehdoc, charts, page

MAX_BYTES = 2_000_000
CSP = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def render(run: Run, result: Result, drill_text: str, history_sha256: str = "") -> bytes:
    """The page in UTF-8, at most ``MAX_BYTES``: what does not fit is left out, charts last, and the page says so.

    ``history_sha256`` is that of the history file, "" if not merged.
    """
    view = page.build(run, result, drill_text, history_sha256)
    data = _page(view)
    if len(data) > MAX_BYTES:
        view = replace(view, drill_text="", drill_cut="Left out for size: the drill's text is in drill.py.")
        data = _page(view)
    if len(data) > MAX_BYTES:
        absent = f"With charts this page would be larger than {MAX_BYTES / 1e6:g} MB; its tables have the figures."
        charts_ = tuple(replace(chart, figure=None, absent=chart.absent or absent) for chart in view.charts)
        data = _page(replace(view, charts=charts_))
    return data


def _page(view: page.Page) -> bytes:
    figures = {chart.element: chart.figure for chart in view.charts if chart.figure is not None}
    text: str = _template().render(
        page=view,
        csp=CSP,
        bokeh_script=Markup(bokehdoc.script()) if figures else "",
        document=Markup(bokehdoc.document_json(figures)) if figures else "",
        dark=charts.DARK,
        colours=charts.CSS_NAMES,
    )
    return text.encode("utf-8", "replace")


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _template() -> Template:
    return _environment().get_template("report.html.j2")
