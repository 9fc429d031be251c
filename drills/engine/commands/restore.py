"""``blackstart restore``: heals whatever a run left."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from drills.engine.commands.console import console_out
from drills.engine.commands.options import looked_into, usable_state
from drills.engine.commands.verdict import shorten
from drills.engine.safety.lock import Locks
from drills.engine.safety.restore import restore, unhealed
from history.errors import BlackstartError
from history.rundir import RunDirectory


@click.command("restore")
@click.argument("run", required=False, type=click.Path(path_type=Path))
def command(run: Path | None) -> int:
    """Heal whatever the run directory RUN left; without RUN, whatever any dead run left on this machine.

    For a run whose harness was killed: ends every process of its fleet, its load and probers, takes its firewall rules
    out, removes its work directory and lets go of its lock. It needs only the lock and the journal, may be run as often
    as you like, and says what it did. The records stay: `blackstart analyze RUN` judges what was seen (never a pass).
    A run whose harness lives is not touched. One that cannot be healed does not keep the others from it.
    """
    console, state = console_out(), usable_state()
    locks, failed = Locks(state), list[BlackstartError]()
    runs = [run] if run is not None else [Path(lock.run) for lock in unhealed(locks)]
    for one in runs:
        try:
            done = restore(one, state, by="blackstart restore", command_line=("blackstart", "restore", str(one)))
        except KeyboardInterrupt:
            console.print(f"Interrupted: NOT healed yet. Next: blackstart restore {shlex.quote(str(one))}")
            return 130
        except BlackstartError as error:
            failed.append(error)
            if len(runs) > 1:
                console.print(f"{shorten(one.resolve())}:\n ✗ {error.message}")
            continue
        console.print(f"{shorten(one.resolve())}:")
        for line in done or ("nothing was left",):
            console.print(f" ✓ {line}")
        if RunDirectory(one).header.is_file():
            console.print(f"Next: blackstart analyze {shorten(one.resolve())}")
    if run is None:
        failed += locks.unreadable()
    if failed:
        raise failed[0]
    if not runs:
        console.print(f"No run is unhealed: {looked_into(state)}.")
    return 0
