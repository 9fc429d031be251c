"""``blackstart restore``: heals whatever a run left."""

from __future__ import annotations

from pathlib import Path

import click

from drills.engine.commands.console import console_out
from drills.engine.commands.verdict import shorten
from drills.engine.safety.lock import Locks, state_dir
from drills.engine.safety.restore import restore, unhealed


@click.command("restore")
@click.argument("run", required=False, type=click.Path(path_type=Path))
def command(run: Path | None) -> int:
    """Heal whatever the run directory RUN left; without RUN, whatever any dead run left on this machine.

    For a run whose harness was killed: ends every process of its fleet, its load and probers, takes its firewall rules
    out, removes its work directory and lets go of its lock. It needs only the lock and the journal, may be run as often
    as you like, and says what it did. The records stay: `blackstart analyze RUN` judges what was seen (never a pass).
    A run whose harness lives is not touched.
    """
    console, state = console_out(), state_dir()
    runs = [run] if run is not None else [Path(lock.run) for lock in unhealed(Locks(state))]
    for one in runs:
        done = restore(one, state, by="blackstart restore")
        console.print(f"{shorten(one.resolve())}:")
        for line in done or ("nothing was left",):
            console.print(f" ✓ {line}")
    if not runs:
        console.print("No run on this machine is unhealed.")
    return 0
