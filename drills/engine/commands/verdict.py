"""The last lines of a run: verdict, recovery against limit, paths, and the command to run it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from assertions.result import ModelRecovery, ObjectiveResult, Result
from drills.engine.commands.console import table_of
from drills.engine.runner.run import RunOutcome
from reports import summary
from reports.clocks import both

MARKS = {"pass": ("✓ PASS", "bold green"), "fail": ("✗ FAIL", "bold red"), "unknown": ("? UNKNOWN", "bold yellow")}
LOOK: dict[str, Any] = {"pad_edge": False, "header_style": "bold"}
MANY = 20
"""With more models than this only those that did not pass are listed."""


def print_outcome(console: Console, outcome: RunOutcome, again: str) -> None:
    """Everything that a tired person needs, the most important last."""
    result = outcome.result
    tables = [models_table(result), objectives_table(result)]
    if (scale := outcome.run.header.time_scale) != 1.0:
        tables.append(replay_table(result, scale))
    for table in tables:
        console.print("", table, sep="\n")
    console.print()
    for failure in outcome.failures:
        console.print(Text(f"Clean-up: {failure}", style="yellow"))
    print_verdict(console, result)
    for label, path in (("report", outcome.directory.report), ("result", outcome.directory.result)):
        console.print(f"{label:>7}: {shorten(path)}")
    console.print(f"  again: {again}")


def print_verdict(console: Console, result: Result) -> None:
    """The verdict, its headline, and the reasons when it is no pass; on GitHub an annotation a failed objective."""
    mark, style = MARKS[result.verdict]
    console.print(Text.assemble((mark, style), f"  {result.headline}"))
    if result.verdict != "pass":
        for reason in result.reasons:
            console.print(Text(f"  - {reason}"))
    if os.environ.get("GITHUB_ACTIONS"):
        for line in summary.annotations(result):
            console.print(Text(line), soft_wrap=True)


def models_table(result: Result) -> Table:
    """Recovery against limit, a line a model; seconds since the injection."""
    limits = {o.scope.removeprefix("model:"): o for o in result.objectives if o.indicator == "recovered"}
    figures = ("lost replicas", "first success", "service back", "recovered", "limit")
    rows = []
    for name, model in result.models.items():
        objective = limits.get(name)
        if len(result.models) > MANY and objective is not None and objective.verdict == "pass":
            continue
        back, recovered = interval(model, model.service_back_s), interval(model, model.recovered_s)
        limit = (f"{objective.limit:g} s", Text(*MARKS[objective.verdict])) if objective else ()
        rows.append((name, model.victims, seconds(model.first_success_s), back, recovered, *limit))
    return table_of("model", *figures, "verdict", rows=rows, right=figures, **LOOK)


def objectives_table(result: Result) -> Table:
    """Objectives other than each model's recovery: measured against limit."""
    rows = [
        (_label(o), o.text, f"{o.limit:g} {o.unit}", Text(*MARKS[o.verdict]))
        for o in result.objectives
        if o.indicator != "recovered" or o.scope.removeprefix("model:") not in result.models
    ]
    return table_of("objective", "measured", "limit", "verdict", rows=rows, right=("measured", "limit"), **LOOK)


def replay_table(result: Result, scale: float) -> Table:
    """Classes in both clocks: the run's seconds, and what they stand for."""
    figures, rows = ("recovered", "full capacity", "second dip"), []
    for name, found in result.classes.items():
        low, high = found.recovered_s or (0.0, None)
        back = "unaffected" if found.unaffected else both(high, scale) if high is not None else f"> {both(low, scale)}"
        dips = [w.start_s for w in result.windows if w.name == "relapse" and w.scope == name]
        rows.append((name, back, both(found.full_capacity_s, scale), both(dips[0] if dips else None, scale)))
    return table_of("class", *figures, rows=rows, right=figures, caption=f"1 s stands for {scale:g} s", **LOOK)


def seconds(value: float | None) -> str:
    """``6.4 s``, or a dash for what was not reached."""
    return "–" if value is None else f"{value:.2f} s"


def interval(model: ModelRecovery, value: tuple[float, float | None] | None) -> str:
    """``2.10 … 2.34 s``; ``unaffected``; ``> 60 s`` when the end was not seen."""
    if model.unaffected:
        return "unaffected"
    if value is None:
        return "–"
    low, high = value
    return f"> {low:.1f} s" if high is None else f"{low:.2f} … {high:.2f} s"


def shorten(path: Path) -> str:
    """The path as seen from here, where that is shorter."""
    return min((str(path), os.path.relpath(path)), key=len)


def _label(objective: ObjectiveResult) -> str:
    """The objective's name, and the scope that it expanded to."""
    return objective.name if f"[{objective.scope}" in objective.name else f"{objective.name} {objective.scope}"
