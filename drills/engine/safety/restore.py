"""``restore``: heals whatever a dead run left, from its lock and its journal alone, without the dead process's memory.

Called by ``blackstart restore``, ``blackstart fleet down`` and the watchdog. Idempotent. It refuses to touch a run
whose harness is not known to be dead, whatever the locks say; of one that is healed it only lets go. The environment
does the work (``fleet.environments.restore_leftovers``); here are only the harness's own children, its temporary files,
the journal, the ledger and the lock.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from drills.engine.safety.journal import Journal, JournalState, read_journal
from drills.engine.safety.ledger import Entry, Ledger, read_ledger
from drills.engine.safety.lock import Lock, Locks
from drills.engine.safety.owner import Owner
from fleet.environments import ENVIRONMENTS, restore_leftovers
from history.errors import BlackstartError, FleetError, RecordingError, Refused, UsageError
from history.rundir import RunDirectory
from loadgen.control import ControlFiles

DRAIN_S = 3.0
"""Load and probers see that the harness is gone and end by themselves; they are killed after this long."""
_OWN_CHILDREN = ("locustfile.py", "loadgen.probers", "drills.engine.safety.watchdog")


def unhealed(locks: Locks) -> tuple[Lock, ...]:
    """Locks whose owner is dead, one a run."""
    return tuple({lock.run: lock for lock in locks.all() if not lock.owner.alive}.values())


def restore(
    run: Path, state: Path, by: str, drain_s: float = DRAIN_S, command_line: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Heals what ``run`` left and lets go of its locks; returns what was done, a line each.

    ``UsageError`` when there is neither a lock nor a journal of it, ``Refused`` while its harness may live or another
    drill has what it would heal.
    """
    locks, directory = Locks(state), RunDirectory(run.resolve())
    with locks.mutex():
        held, journal = locks.of_run(directory.path), read_journal(directory.journal)
        damaged = directory.journal.is_file() and (directory.path / "fleet").is_dir()
        if not held and not journal.begun and not damaged:
            raise UsageError(
                f"{str(run)!r} is no run that could have left anything: no lock names it, and it has no journal",
                hint="give the directory that `blackstart run` printed; without one, all that is unhealed is healed",
            )
        owners = {lock.owner for lock in held} | ({journal.owner} if journal.owner else set())
        if alive := [owner for owner in owners if owner.alive]:
            if journal.healed and not held:
                return ()  # its process is at its pages, or at another run
            raise Refused(_of_the_living(directory, alive[0]), hint=alive[0].next_step(str(directory.path)))
        environment = _environment(journal, held, directory)
        if not journal.healed:
            _require_unclaimed(locks, environment)
        book = Ledger(state, replace(_about(directory.path, state, held), command_line=command_line))

        def enter(outcome: str, text: str = "") -> None:
            text = f"{by}: {text}" if text else by
            with contextlib.suppress(RecordingError):  # a full disk must not keep anything from being healed
                book.write("restore", outcome, clusters=journal.hurt, text=text)

        if not journal.healed:
            enter("begun")
        try:
            done = [] if journal.healed else _heal(environment, _facts(journal, held, directory.path, environment))
            if journal.hurt:  # not before: what raises has healed nothing
                done = [
                    f"the fault on {', '.join(journal.hurt)} was open: {'; '.join(done) or 'nothing of it is left'}"
                ]
            done += _end_children(directory.path, drain_s)
            done += _tidy(directory)
        except BlackstartError as error:
            enter("failed", error.message)
            raise
        except Exception as error:  # of the engine, of psutil, of a damaged account: it is not healed either
            told = f"{run} is not healed: {type(error).__name__}: {error}"
            enter("failed", told)
            hint = f"see what stands in the way, then `blackstart restore {shlex.quote(str(run))}`"
            raise FleetError(told, hint=hint) from error
        if directory.path.is_dir() and (done or not journal.healed):
            with contextlib.suppress(RecordingError):
                Journal(directory.journal).write("restored", by=by, done=done)
        if done or held or not journal.healed:
            enter("ok", "; ".join(done))
        done += [f"released the lock on {target}" for target in locks.drop(held)]
    return tuple(done)


def _about(run: Path, state: Path, held: tuple[Lock, ...]) -> Entry:
    """What the ledger has of the run itself: drill, environment, blast radius."""
    known = [entry for entry in read_ledger(state, last=0) if entry.run == str(run)]
    return known[-1] if known else Entry(drill=next((lock.drill for lock in held), ""), run=str(run))


def _of_the_living(directory: RunDirectory, owner: Owner) -> str:
    """Whether its harness still works is for people to judge: where it is and when it last wrote."""
    written = [path.stat().st_mtime for path in (directory.journal, directory.ops_file("runner")) if path.is_file()]
    silent = f"; it last wrote {time.time() - max(written):.0f} s ago" if written else ""
    place = "its harness is alive" if owner.here else f"its harness is on {owner.host}"
    return f"{place} (process {owner.pid}{', stopped' if owner.stopped else ''}{silent})"


def _require_unclaimed(locks: Locks, environment: str) -> None:
    """What a run left may by now be what another drill works with: a kind fleet has one folder."""
    others = [lock for lock in locks.all() if lock.environment == environment and lock.owner.alive]
    if others:
        raise Refused(
            f"{others[0].target} is in other hands by now: {others[0]}",
            hint="wait until that drill has ended (`blackstart watch`), then restore again",
        )


def _environment(journal: JournalState, held: tuple[Lock, ...], directory: RunDirectory) -> str:
    """The lock's word first, then the last of the journal's that names one that there is, then the header's."""
    named = [lock.environment for lock in held] + [name for name, _ in reversed(journal.said) if name]
    with contextlib.suppress(UsageError):
        named.append(directory.read_header().environment)
    return next((name for name in named if name in ENVIRONMENTS), named[0] if named else "local")


def _facts(journal: JournalState, held: tuple[Lock, ...], run: Path, environment: str) -> list[dict[str, Any]]:
    """Every distinct account of what is to be healed: one damaged entry must not hide what a sound one says."""
    said = [lock.facts for lock in held] + [facts for _, facts in journal.said]
    whole: dict[str, Any] = {key: value for facts in said for key, value in facts.items()}
    every = [whole | facts for facts in reversed(said)]
    every += [whole | {"work_dir": str(run / "fleet")}] if environment == "local" else []
    return [facts for number, facts in enumerate(every) if facts not in every[:number]] or [{}]


def _heal(environment: str, accounts: list[dict[str, Any]]) -> list[str]:
    """By every account; the first error, once all have been tried."""
    done, failed = list[str](), list[Exception]()
    for facts in accounts:
        try:
            done += restore_leftovers(environment, facts)
        except Exception as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return list(dict.fromkeys(done))


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
