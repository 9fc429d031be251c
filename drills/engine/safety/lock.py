"""The lock: two drills never run at once on the same targets, and it outlives the harness that took it.

One small file a target in the state directory: who holds it (``Owner``), which run, and the facts to heal that run by.
A lock whose owner died is taken over only when that run is known to be healed; else the next run is refused and told to
`blackstart restore`. It heals nothing itself.

State directory: $BLACKSTART_STATE, else $XDG_STATE_HOME/blackstart, else ~/.local/state/blackstart.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from drills.engine.safety.journal import read_journal
from drills.engine.safety.owner import Owner, user
from history.errors import RecordingError, Refused, UsageError
from history.rundir import RunDirectory, pretty_json, write_atomic

BUSY_S = 10.0
"""Nobody waits longer than this for the one who changes locks now."""


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where locks and the ledger are kept; not made until something is written."""
    if own := environ.get("BLACKSTART_STATE"):
        return Path(own).absolute()  # the watchdog and the load run in other folders
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home(), ".local", "state")
    return Path(home).absolute() / "blackstart"


@dataclass(frozen=True)
class Lock:
    """What a lock file says. ``facts`` are those of the journal, in case the run directory is gone."""

    target: str
    owner: Owner
    run: str
    drill: str
    environment: str
    user: str
    since: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def healed(self) -> bool:
        """Does the run's journal say that nothing of it is left?"""
        return read_journal(RunDirectory(Path(self.run)).journal).healed

    def __str__(self) -> str:
        who = f"{self.user}@{self.owner.host}"
        return f"drill {self.drill} by {who} since {self.since} (process {self.owner.pid}; {self.run})"


def _lock(file: IO[str], state: Path) -> None:
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise Refused(
                    f"another blackstart has been healing, or taking a lock, in {state} for more than {BUSY_S:g} s",
                    hint="wait until it ends (`blackstart watch` shows who did what), then try again",
                ) from error
            time.sleep(0.05)


class Locks:
    """The locks in one state directory."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._folder = state / "locks"

    def take(
        self, targets: tuple[str, ...], *, run: Path, drill: str, environment: str, facts: dict[str, Any]
    ) -> tuple[str, ...]:
        """Takes all targets or none; returns notes about locks that were taken over. ``Refused`` says what to do."""
        try:
            str(run).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{str(run)!r} is no UTF-8 text", hint="choose another place with --out DIR") from error
        lock = Lock(
            target="",
            owner=Owner.of(os.getpid()),
            run=str(run),
            drill=drill,
            environment=environment,
            user=user(),
            since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            facts=facts,
        )
        with self.mutex():
            notes = self.require_free(targets)
            try:
                for target in sorted(targets):
                    write_atomic(self._file(target), pretty_json(replace(lock, target=target)))
            except BaseException:
                for target in targets:
                    self._file(target).unlink(missing_ok=True)
                raise
        return notes

    def require_free(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """``Refused`` when one of the targets is held; notes about those held by runs that died healed."""
        notes = []
        for target in sorted(targets):
            lock = self._read(self._file(target))
            if lock is None:
                continue
            self.require_dead(lock)
            if not lock.healed:
                raise Refused(
                    f"the last run on {target} died and was not healed: {lock}",
                    hint=f"heal it first: `blackstart restore {shlex.quote(lock.run)}`",
                )
            notes.append(f"took over the lock on {target}: its owner died after everything was healed ({lock.run})")
        return tuple(notes)

    def require_dead(self, lock: Lock) -> None:
        """``Refused`` unless the one who holds it is known to be dead."""
        if lock.owner.alive:
            hint = "wait until it ends, or look at it: `blackstart watch`"
            run = RunDirectory(Path(lock.run))
            if run.journal.is_file():
                hint += f"; to stop it, `touch {shlex.quote(str(run.stop))}`: it heals first"
            if lock.owner.stopped or not lock.owner.here:
                hint = lock.owner.next_step(lock.run)
            if not lock.owner.here:
                hint += f"; if that machine is gone for good, delete {self._file(lock.target)}"
            raise Refused(f"another drill holds {lock.target}: {lock}", hint=hint)

    def all(self) -> tuple[Lock, ...]:
        """Every lock that can be read, by target."""
        return tuple(lock for lock in map(self._look, self._files()) if isinstance(lock, Lock))

    def unreadable(self) -> tuple[Refused, ...]:
        """What is wrong with each of the others; a target whose lock cannot be read is held."""
        return tuple(error for error in map(self._look, self._files()) if isinstance(error, Refused))

    def of_environment(self, environment: str) -> tuple[Lock, ...]:
        """Every lock on targets of an environment; ``Refused`` when one of them cannot be read."""
        found = map(self._read, self._files(environment))
        return tuple(lock for lock in found if lock is not None)

    def of_run(self, run: Path) -> tuple[Lock, ...]:
        """The locks that a run holds."""
        return tuple(lock for lock in self.all() if Path(lock.run) == run)

    def release(self, run: Path) -> tuple[str, ...]:
        """Lets go of what this very process holds for ``run``; idempotent; returns the targets. Waits for nobody:
        no other process may touch the lock of a live one."""
        me = Owner.of(os.getpid())
        return self.drop(lock for lock in self.of_run(run) if replace(lock.owner, host=me.host) == me)

    def drop(self, locks: Iterable[Lock]) -> tuple[str, ...]:
        """Deletes locks that nobody needs any more; returns their targets."""
        found = tuple(locks)
        for lock in found:
            self._file(lock.target).unlink(missing_ok=True)
        return tuple(lock.target for lock in found)

    @contextlib.contextmanager
    def mutex(self) -> Iterator[None]:
        """One process at a time looks and changes; the kernel lets go when its holder dies.

        ``Refused`` when another one, a restore as a rule, does not end within ``BUSY_S``.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._state / "mutex").open("w")
        except OSError as error:
            raise RecordingError(
                f"cannot write to the state directory {self._state}: {error.strerror}",
                hint="name another one with BLACKSTART_STATE=DIR; without a lock two drills could run at once",
            ) from error
        with file:
            _lock(file, self._state)
            for part in self._folder.glob("*.part"):  # of somebody who was killed while writing
                part.unlink(missing_ok=True)
            yield

    def _files(self, environment: str = "") -> list[Path]:
        return sorted(self._folder.glob(f"{environment}*.json"))

    def _look(self, path: Path) -> Lock | Refused | None:
        try:
            return self._read(path)
        except Refused as error:
            return error

    def _file(self, target: str) -> Path:
        return self._folder / (re.sub(r"[^A-Za-z0-9._-]", "_", target) + ".json")

    def _read(self, path: Path) -> Lock | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Lock)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise Refused(
                f"the lock {path} cannot be read: {error}",
                hint="make sure that no drill runs (`blackstart watch RUN`, `ps`), then delete that file",
            ) from error
