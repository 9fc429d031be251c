"""The lock: two drills never run at once on the same targets, and it outlives the harness that took it.

One small file a target in the state directory: who holds it (process, its start, this boot), which run, and the facts
to heal that run by. A lock whose owner died is taken over only when that run is known to be healed; else the next run
is refused and told to `blackstart restore`. It heals nothing itself.

State directory: $BLACKSTART_STATE, else $XDG_STATE_HOME/blackstart, else ~/.local/state/blackstart.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil

from drills.engine.safety.journal import read_journal
from history.clock import boot_id
from history.errors import RecordingError, Refused
from history.rundir import RunDirectory, pretty_json, write_atomic


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where locks and the ledger are kept; not made until something is written."""
    if own := environ.get("BLACKSTART_STATE"):
        return Path(own)
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home(), ".local", "state")
    return Path(home) / "blackstart"


@dataclass(frozen=True)
class Owner:
    """A process that cannot be mistaken for a later one of the same number."""

    pid: int
    started: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Owner:
        """The owner record of a live process; ``started`` 0 when there is none."""
        return cls(pid, start_of(pid), boot_id())

    @property
    def alive(self) -> bool:
        """Stopped (SIGSTOP) counts as alive; dead and not yet waited for does not."""
        return self.boot_id == boot_id() and self.started != 0 and start_of(self.pid) == self.started


@dataclass(frozen=True)
class Lock:
    """What a lock file says. ``facts`` are those of the journal, in case the run directory is gone."""

    target: str
    owner: Owner
    run: str
    drill: str
    environment: str
    user: str
    host: str
    since: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def healed(self) -> bool:
        """Does the run's journal say that nothing of it is left?"""
        return read_journal(RunDirectory(Path(self.run)).journal).healed

    def __str__(self) -> str:
        return (
            f"drill {self.drill} by {self.user}@{self.host} since {self.since} (process {self.owner.pid}; {self.run})"
        )


class Locks:
    """The locks in one state directory."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._folder = state / "locks"

    def take(
        self, targets: tuple[str, ...], *, run: Path, drill: str, environment: str, facts: dict[str, Any]
    ) -> tuple[str, ...]:
        """Takes all targets or none; returns notes about locks that were taken over. ``Refused`` says what to do."""
        lock = Lock(
            target="",
            owner=Owner.of(os.getpid()),
            run=str(run),
            drill=drill,
            environment=environment,
            user=user(),
            host=socket.gethostname(),
            since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            facts=facts,
        )
        with self.mutex("mutex"):
            notes = self.require_free(targets)
            for target in sorted(targets):
                write_atomic(self._file(target), pretty_json(replace(lock, target=target)))
        return notes

    def require_free(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """``Refused`` when one of the targets is held; notes about those held by runs that died healed."""
        notes = []
        for target in sorted(targets):
            lock = self._read(self._file(target))
            if lock is None:
                continue
            if lock.owner.alive:
                raise Refused(
                    f"another drill holds {target}: {lock}",
                    hint="wait until it ends, or look at it: `blackstart watch`",
                )
            if not lock.healed:
                raise Refused(
                    f"the last run on {target} died and was not healed: {lock}",
                    hint=f"heal it first: `blackstart restore {lock.run}`",
                )
            notes.append(f"took over the lock on {target}: its owner died after everything was healed ({lock.run})")
        return tuple(notes)

    def all(self) -> tuple[Lock, ...]:
        """Every lock there is, by target."""
        found = [self._read(path) for path in sorted(self._folder.glob("*.json"))]
        return tuple(lock for lock in found if lock is not None)

    def of_run(self, run: Path) -> tuple[Lock, ...]:
        """The locks that a run holds."""
        return tuple(lock for lock in self.all() if Path(lock.run) == run)

    def release(self, run: Path) -> tuple[str, ...]:
        """Lets go of everything that ``run`` holds; idempotent; returns the targets."""
        with self.mutex("mutex"):
            held = self.of_run(run)
            for lock in held:
                self._file(lock.target).unlink(missing_ok=True)
        return tuple(lock.target for lock in held)

    @contextlib.contextmanager
    def mutex(self, name: str) -> Iterator[None]:
        """One process at a time; the kernel lets go when its holder dies."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._state / name).open("w")
        except OSError as error:
            raise RecordingError(
                f"cannot write to the state directory {self._state}: {error.strerror}",
                hint="name another one with BLACKSTART_STATE=DIR; without a lock two drills could run at once",
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

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


def user() -> str:
    """Who runs this, as far as the system knows; with sudo, who asked it to."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo by {behind})" if behind and behind != name else name


def start_of(pid: int) -> int:
    """When a live process began, in units of this boot that no step of the wall clock changes; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        pass
    if Path("/proc/self/stat").exists():
        return 0
    try:
        process = psutil.Process(pid)
        return 0 if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time())
    except psutil.Error:
        return 0
