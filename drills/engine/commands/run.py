"""``blackstart run``: carries a drill out and ends with the verdict."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from pathlib import Path

import click

from drills.engine.commands import ablate as ablation
from drills.engine.commands.console import console_out
from drills.engine.commands.options import Asked, planning
from drills.engine.commands.verdict import print_outcome
from drills.engine.runner.run import run_drill
from drills.engine.runner.view import view_on
from drills.engine.safety.refusals import refuse

DEFAULT_OUT = Path("runs")


@click.command("run")
@planning
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    help="Folder in which the run's directory is made.",
)
@click.option(
    "--gateway-port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="Port of the fleet's entry point, to send requests of your own to; by default any free one.",
)
@click.option(
    "--webhook",
    metavar="URL",
    default="",
    envvar="BLACKSTART_WEBHOOK",
    help="Post a small JSON object there at start, injection, heal and end [also: BLACKSTART_WEBHOOK]. It never holds "
    "up or fails a run.",
)
@click.option(
    "--ablate",
    is_flag=True,
    help="For a drill with remediations: run it without any, with each alone and with all, and compare. Runs that are "
    "finished beneath --out are kept: the same command resumes.",
)
@click.option("--leave-one-out", is_flag=True, help="With --ablate: also with all but each.")
@click.option("--plain", is_flag=True, help="One plain line an event, also on a terminal (CI gets this by itself).")
def command(
    asked: Asked,
    out: Path,
    gateway_port: int,
    webhook: str,
    ablate: bool,
    leave_one_out: bool,
    plain: bool,
) -> int:
    """Run DRILL (a name of `blackstart list`, or a path) and judge it.

    The fleet is started, put under load, hurt, watched, restored and stopped; everything that was recorded is in one
    directory beneath --out: history.jsonl.gz, result.json, report.html, junit.xml, summary.md. Ctrl-C heals and drains
    first, and what was seen until then is still judged.

    DRILL+REMEDY+… is a drill with some of its remediations on, DRILL+all with all of them; see --ablate.

    It refuses to start (exit 4, nothing touched) whenever `blackstart plan` shows a reason: see there.
    """
    if leave_one_out and not ablate:
        raise click.UsageError("--leave-one-out says which runs --ablate makes: give both")
    if ablate:
        return ablation.ablate(console_out(), asked, out, leave_one_out, gateway_port, webhook)
    plan = asked.plan()
    refuse(plan.refusals)
    console = console_out()
    again = ["blackstart", "run", *asked.words]
    again += ["--out", str(out)] if out != DEFAULT_OUT else []
    again += ["--gateway-port", str(gateway_port)] if gateway_port else []
    again += ["--plain"] if plain else []  # not the webhook: its address is often a secret, and this is recorded
    console.print(f"{plan.drill.name}: {plan.file.summary}")
    for forecast in plan.forecasts:
        if not forecast.fits:
            misfits = [f"{m.model} ({m.reason})" for m in forecast.models if not m.fits]
            console.print(f"Forecast: without {forecast.victim} these will not fit: {'; '.join(misfits)}")
    with view_on(console, plain=plain) as view:
        outcome = run_drill(plan, out, view, tuple(again), gateway_port, webhook)
    with suppress(OSError, SystemExit):  # the terminal may be gone, and the verdict stands
        print_outcome(console, outcome, shlex.join(again))
        sys.stdout.flush()
    return outcome.exit_code
