"""``blackstart analyze``: judges a run directory again, from its records alone."""

from __future__ import annotations

from pathlib import Path

import click

from assertions import result_schema
from drills.engine.commands.console import console_out
from drills.engine.commands.verdict import models_table, objectives_table, print_verdict, shorten
from drills.engine.runner.run import EXIT_CODES, judge
from history.rundir import RunDirectory


def _print_schema(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(result_schema())
        context.exit()


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
    whose harness was killed is judged by what was recorded until then, and is never a pass. Exit code as for `run`.
    """
    console = console_out()
    _, result = judge(run)
    for table in (models_table(result), objectives_table(result)):
        console.print(table)
        console.print()
    print_verdict(console, result)
    console.print(f" result: {shorten(RunDirectory(run).result)}")
    return EXIT_CODES[result.verdict]
