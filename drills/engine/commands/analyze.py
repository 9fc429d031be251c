"""``blackstart analyze``: judges a run directory again, from its records alone."""

from __future__ import annotations

from pathlib import Path

import click

from assertions import result_schema
from assertions.result import Result
from drills.engine.commands.console import console_out
from drills.engine.commands.verdict import models_table, objectives_table, print_verdict, shorten
from drills.engine.runner.run import EXIT_CODES, judge
from drills.engine.safety.lock import Locks, state_dir
from history.errors import Refused
from history.reader import Run
from history.rundir import RunDirectory


def _print_schema(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(result_schema())
        context.exit()


def judge_over(path: Path) -> tuple[Run, Result]:
    """``judge`` for a run that is over; ``Refused`` while its harness lives: it would be judged as killed."""
    if running := [lock for lock in Locks(state_dir()).of_run(path.resolve()) if lock.owner.alive]:
        raise Refused(
            f"{path} is still running (process {running[0].owner.pid})",
            hint=f"look at it: `blackstart watch {path}`; it is judged when it ends",
        )
    return judge(path)


@click.command("analyze")
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of result.json and end.",
)
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> int:
    """Judge the run directory RUN again and write its result.json.

    Reads records only: no drill file is executed, no fleet is needed, and the same records give the same bytes. A run
    whose harness was killed is judged by what was recorded until then, and is never a pass; one that is still running
    is refused. Exit code as for `run`.
    """
    console = console_out()
    _, result = judge_over(run)
    for table in (models_table(result), objectives_table(result)):
        console.print(table)
        console.print()
    print_verdict(console, result)
    console.print(f" result: {shorten(RunDirectory(run).result)}")
    return EXIT_CODES[result.verdict]
