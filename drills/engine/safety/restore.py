"""``restore``: heals whatever a dead run left, from its lock and its journal alone, without the dead process's memory.

Called by ``blackstart restore`` and by the watchdog. Idempotent: what is healed already is said to be so. It refuses to
touch a run whose harness lives. The environment does the work (``fleet.environments.restore_leftovers``); here are only
the harness's own children, its temporary files, the journal, the ledger and the lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import psutil

from drills.engine.safety.journal import Journal, read_journal
from drills.engine.safety.ledger import Entry, Ledger
from drills.engine.safety.lock import Lock, Locks
from fleet.environments import restore_leftovers
from history.errors import RecordingError, Refused, UsageError
from history.rundir import RunDirectory
from loadgen.control import ControlFiles

DRAIN_S = 3.0
"""Load and probers see that the harness is gone and end by themselves; they are killed after this long."""
_OWN_CHILDREN = ("locustfile.py", "loadgen.probers", "drills.engine.safety.watchdog")


def unhealed(locks: Locks) -> tuple[Lock, ...]:
    """Locks whose owner is dead, one a run."""
    return tuple({lock.run: lock for lock in locks.all() if not lock.owner.alive}.values())


def restore(run: Path, state: Path, by: str, drain_s: float = DRAIN_S) -> tuple[str, ...]:
    """Heals what ``run`` left and lets go of its locks; returns what was done, a line each.

    ``UsageError`` when there is neither a lock nor a journal of it, ``Refused`` while its harness lives.
    """
    locks, directory = Locks(state), RunDirectory(run.resolve())
    with locks.mutex("restoring"):
        held, journal = locks.of_run(directory.path), read_journal(directory.journal)
        if not held and not journal.begun:
            raise UsageError(
                f"{run} is no run that could have left anything: no lock names it, and it has no journal",
                hint="give the directory that `blackstart run` printed; without one, all that is unhealed is healed",
            )
        if alive := [lock for lock in held if lock.owner.alive]:
            raise Refused(
                f"its harness is alive: {alive[0]}",
                hint=f"end it first: `touch {directory.path}/stop`, or Ctrl-C where it runs; it heals by itself",
            )
        facts = {key: value for lock in held for key, value in lock.facts.items()} | journal.facts
        environment = journal.environment or next((lock.environment for lock in held), "local")
        done = [f"{name}: an injected fault was open" for name in journal.hurt]
        done += restore_leftovers(environment, facts)
        done += _end_children(directory.path, drain_s)
        done += _tidy(directory)
        entry = Entry(drill=next((lock.drill for lock in held), ""), run=str(directory.path), environment=environment)
        if directory.path.is_dir() and (done or not journal.healed):
            _if_it_can_be_said(lambda: Journal(directory.journal).write("restored", by=by, done=done))
        if done or held:
            _if_it_can_be_said(
                lambda: Ledger(state, entry).write("restore", "ok", clusters=journal.hurt, text="; ".join(done) or by)
            )
        done += [f"released the lock on {target}" for target in locks.release(directory.path)]
    return tuple(done)


def children(run: Path) -> list[psutil.Process]:
    """Live processes that the harness of ``run`` started itself (load, probers, watchdog), but never the caller."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            argv = process.cmdline()
            ours = str(run) in argv and any(part.endswith(_OWN_CHILDREN) for part in argv)
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _end_children(run: Path, drain_s: float) -> list[str]:
    waiting = [one for one in children(run) if not _is_watchdog(one)]
    _, alive = psutil.wait_procs(waiting, timeout=drain_s)
    for process in alive + [one for one in children(run) if _is_watchdog(one)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=DRAIN_S)
    return [f"ended {len(waiting)} processes of the harness"] if waiting else []


def _is_watchdog(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(part.endswith("watchdog") for part in process.cmdline())
    return False


def _tidy(directory: RunDirectory) -> list[str]:
    """Files that were only ever meant to live as long as the run."""
    parts = [path for path in directory.path.glob("*.part") if path.is_file()]
    with contextlib.suppress(OSError):
        for path in parts:
            path.unlink(missing_ok=True)
        if (directory.path / "load").is_dir():
            ControlFiles(directory).clear()
    return [f"removed {len(parts)} unfinished files"] if parts else []


def _if_it_can_be_said(write: Callable[[], object]) -> None:
    """A full disk must not keep anything from being healed and let go."""
    with contextlib.suppress(RecordingError):
        write()
