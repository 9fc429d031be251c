"""Steps of a build and the shelf on which their results stand, by content.

A step's key is a hash of all that can change its result: its inputs and the keys of the steps that it needs. So a
result is either there under its key, whole, or it is not there at all; an interrupted build loses the step it was in
and no other. ``plan`` makes the steps, ``images`` runs them. Nothing here knows what a step builds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from history.errors import FleetError

AT_ONCE: Final = 2
"""Steps that run side by side: the Debian tree waits for the network while a compiler works."""
KEPT: Final = 3
"""Results of one step that stay on the shelf, the newest first (several checkouts may share it)."""
HEARTBEAT_S: Final = 20.0
"""A step that works longer than this says so again and again."""

Say = Callable[[str], None]
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Step:
    """One result: a folder that ``make`` fills."""

    name: str
    what: str
    """What it does, for progress lines."""
    make: Callable[[Workshop], None]
    inputs: Mapping[str, str]
    """Everything besides ``needs`` that can change the result, by name."""
    needs: tuple[Step, ...] = ()

    @property
    def key(self) -> str:
        """Sixteen hex digits over the name, the inputs and the keys of what it needs."""
        said = [self.name, sorted(self.inputs.items()), sorted(step.key for step in self.needs)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shelf:
    """The cache folder: ``steps/NAME-KEY`` for results, ``work/`` for what is in the making, ``logs/``."""

    root: Path

    def place(self, step: Step) -> Path:
        """Where the step's result stands, or will."""
        return self.root / "steps" / f"{step.name}-{step.key}"

    def has(self, step: Step) -> bool:
        return self.place(step).is_dir()

    def log(self, step: Step) -> Path:
        return self.root / "logs" / f"{step.name}.log"

    def prune(self, step: Step) -> None:
        """Remove all but the newest ``KEPT`` results of this step."""
        made = sorted(
            self.place(step).parent.glob(f"{step.name}-" + "?" * len(step.key)), key=lambda p: -p.stat().st_mtime
        )
        for old in made[KEPT:]:
            remove(old)

    @contextlib.contextmanager
    def locked(self, say: Say) -> Iterator[None]:
        """One build at a time uses the shelf; another waits and says so."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another build uses {self.root}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            for left in (self.root / "work").glob("*"):  # of a build that was interrupted
                remove(left)
            yield


@dataclass
class Workshop:
    """What a step's ``make`` gets: the folder to fill, the results it needs, and a way to run programs."""

    out: Path
    log: Path
    cache: Path
    """The shelf's root, for downloads that survive an interruption."""
    got: Mapping[str, Path]
    """The results of ``needs``, by step name."""
    running: set[int] = field(default_factory=set)
    """Process groups of the programs that run now; the runner ends them when the build is interrupted."""

    def run(self, command: Command, *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        """Run a program with its output in the log; ``FleetError`` when it fails."""
        with self.log.open("ab") as log:
            self._run(command, cwd, env, log)

    def ask(self, command: Command, *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a program; what it says on stdout (stderr goes to the log); ``FleetError`` when it fails."""
        with tempfile.TemporaryFile() as said:
            self._run(command, cwd, env, said)
            said.seek(0)
            return said.read().decode(errors="replace")

    def _run(self, command: Command, cwd: Path | None, env: Mapping[str, str] | None, out: IO[bytes]) -> None:
        words = [str(word) for word in command]
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(words)}\n".encode())
            log.flush()
            with subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            ) as process:
                self.running.add(process.pid)
                process.wait()
                self.running.discard(process.pid)
        if process.returncode:
            raise FleetError(
                f"{Path(words[0]).name} failed with code {process.returncode}: {last_line(self.log)}",
                hint=f"read the end of {self.log}; what is done already is kept, so the same command goes on from here",
            )


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(it said nothing)"


def remove(folder: Path) -> None:
    """Remove a folder and all in it, without following a mount into another file system."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", folder], check=True)


def missing(goals: Sequence[Step], shelf: Shelf) -> list[Step]:
    """The steps still to do for these goals, in an order in which they can be done."""
    order: list[Step] = []

    def visit(step: Step) -> None:
        if shelf.has(step) or any(done.name == step.name for done in order):
            return
        for need in step.needs:
            visit(need)
        order.append(step)

    for goal in goals:
        visit(goal)
    return order


class Build:
    """Makes what is missing on a shelf for some goals."""

    def __init__(self, shelf: Shelf, say: Say, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._shelf, self._say, self._clock = shelf, say, clock
        self._running: set[int] = set()
        self._began: dict[str, float] = {}
        self._stop = threading.Event()

    def run(self, goals: Sequence[Step]) -> None:
        """Make every missing step; the first failure stops the rest and is raised."""
        todo = missing(goals, self._shelf)
        at_work: dict[Future[None], Step] = {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                while todo or at_work:
                    busy = {step.name for step in at_work.values()}
                    for step in [s for s in todo if all(self._shelf.has(need) for need in s.needs)]:
                        if len(busy) < AT_ONCE:
                            todo.remove(step)
                            busy.add(step.name)
                            at_work[pool.submit(self._make, step)] = step
                    done, _ = wait(at_work, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
                    for future in done:
                        at_work.pop(future)
                        future.result()
                    if not done:
                        for step in at_work.values():
                            self._say(
                                f"   … {step.name}, {self._since(step):.0f} s: {last_line(self._shelf.log(step))[:90]}"
                            )
            except BaseException:
                self._end()
                raise

    def _since(self, step: Step) -> float:
        return self._clock() - self._began.get(step.name, self._clock())

    def _end(self) -> None:
        self._stop.set()
        for group in tuple(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)

    def _make(self, step: Step) -> None:
        if self._stop.is_set():
            return
        self._began[step.name] = self._clock()
        self._say(f"   {step.name}: {step.what}")
        place, log = self._shelf.place(step), self._shelf.log(step)
        part = self._shelf.root / "work" / place.name
        for folder in (part.parent, place.parent, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if part.exists():
            remove(part)
        part.mkdir()
        log.write_text(f"{step.name} {step.key}: {step.what}\n")
        got = {need.name: self._shelf.place(need) for need in step.needs}
        try:
            step.make(Workshop(part, log, self._shelf.root, got, self._running))
        except OSError as error:
            left = f"{free_gib(self._shelf.root):.1f} GiB are free there"
            raise FleetError(f"{step.name} could not be made: {error}", hint=f"look into {part}; {left}") from error
        os.rename(part, place)
        self._shelf.prune(step)
        self._say(f" ✓ {step.name} ({self._since(step):.1f} s)")


def free_gib(folder: Path) -> float:
    """Space left, in GiB, on the file system of a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30
