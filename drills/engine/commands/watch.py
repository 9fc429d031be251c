"""``blackstart watch``: shows a running drill from another terminal, live and read-only."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from drills.engine.commands.console import console_out
from drills.engine.commands.options import looked_into, usable_state
from drills.engine.runner.run import INTERRUPTED_EXIT
from drills.engine.runner.view import view_on
from drills.engine.runner.watching import Stamp, Watching
from drills.engine.safety.ledger import read_ledger
from drills.engine.safety.lock import Locks
from history.errors import UsageError
from history.rundir import RunDirectory


@click.command("watch")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option("--plain", is_flag=True, help="One plain line an event, also on a terminal.")
def command(run: Path | None, plain: bool) -> int:
    """Show the drill that is running on this machine, live and read-only, until it ends.

    It is found by its lock; name its directory RUN where several run. On a run that is over it shows what happened and
    how it ended. When nothing runs, the last entries of the ledger say who did what to which cluster. It stops nothing,
    and neither does Ctrl-C here: to stop a drill, `touch RUN/stop`; it heals, drains, and ends unknown.
    """
    console, state = console_out(), usable_state()
    locks = Locks(state)
    if run is None:
        running = sorted({lock.run for lock in locks.all()})
        for error in locks.unreadable():
            console.print(f"{error.message}. Next: {error.hint}")
        if not running:
            console.print(f"No drill is running on this machine: {looked_into(state)}.")
            print_ledger(console, state)
            return 0
        if len(running) > 1:
            raise UsageError(
                "several runs hold locks", problems=tuple(running), hint="name one: `blackstart watch RUN`"
            )
        run = Path(running[0])
    elif not any(file.is_file() for file in (RunDirectory(run).drill, RunDirectory(run).journal)):
        raise UsageError(f"{run} is not a run directory", hint="give the directory that `blackstart run` printed")
    console.print(f"Watching {run}")
    stamp = Stamp()
    try:
        with view_on(console, plain=plain, clock=stamp) as view:
            ended = Watching(run, locks, view, stamp).follow()
    except KeyboardInterrupt:
        console.print("Stopped watching; the drill runs on.")
        return INTERRUPTED_EXIT
    console.print(f"{run.name}: {ended}")
    return 0


def print_ledger(console: Console, state: Path) -> None:
    """The last operations, one a line."""
    for entry in read_ledger(state):
        clusters = f" {', '.join(entry.clusters)}" if entry.clusters else ""
        who = f"{entry.user}@{entry.host}"
        said = f" · {entry.text}" if entry.text else ""
        console.print(f"{entry.when}  {who}  {entry.drill}  {entry.operation}{clusters}: {entry.outcome}{said}")
