"""reports: result -> page, JUnit, Markdown. Pure functions; imports only assertions and history.

html.py       report.html                        forms.py     the Jinja environment; templates/ are the forms
strips.py     phase strips                       chartset.py  charts with finding, legend and table
charts.py     Bokeh figures                      bokehdoc.py  Bokeh without random ids
series.py     bins and thinned dots              metrics.py   what Prometheus answered
findings.py   one true sentence a chart          tables.py    tables behind charts and details
timeline.py   status-page words                  facts.py     what all reports state in the same words
clocks.py     a replay's two clocks              words.py     how numbers are written
junit.py      junit.xml                          summary.py   summary.md, GitHub annotations
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from assertions.result import Result
from history.reader import Run
from history.rundir import RunDirectory, write_atomic
from reports import html, junit, summary

__all__ = ["html", "junit", "summary", "write_all"]


def write_all(run: Run, result: Result, directory: RunDirectory) -> tuple[Path, ...]:
    """Writes report.html, junit.xml and summary.md, each whole or not at all, and returns their paths.

    The drill's text comes from ``drill.py`` of the directory where there is one. ``RecordingError`` on a full disk.
    """
    try:
        drill_text = directory.drill.read_text(encoding="utf-8", errors="replace")
    except OSError:
        drill_text = ""
    try:
        sha256 = hashlib.sha256(directory.history.read_bytes()).hexdigest()
    except OSError:
        sha256 = ""
    contents = (
        (directory.report, html.render(run, result, drill_text, sha256)),
        (directory.junit, junit.render(result)),
        (directory.summary, summary.render(run, result)),
    )
    for path, data in contents:
        write_atomic(path, data)
    return tuple(path for path, _ in contents)
