"""``blackstart report``: writes the pages of a run directory again."""

from __future__ import annotations

from pathlib import Path

import click

import reports
from drills.engine.commands.analyze import judge_over
from drills.engine.commands.console import console_out
from drills.engine.commands.verdict import print_verdict, shorten
from history.rundir import RunDirectory


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> int:
    """Write report.html, junit.xml and summary.md of the run directory RUN again.

    The pages are made from the records alone; the same records give the same bytes. Exit code 0 when they are written,
    whatever the verdict.
    """
    console = console_out()
    history, result = judge_over(run)
    reports.write_all(history, result, RunDirectory(run))
    print_verdict(console, result)
    console.print(f" report: {shorten(RunDirectory(run).report)}")
    return 0
