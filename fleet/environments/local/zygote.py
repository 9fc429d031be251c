"""The zygote: one single-threaded process that has everything imported and forks the processes of one fleet.

``LocalFleet`` starts it (``python -m fleet.environments.local.zygote``) and speaks with it over a socket pair, one
pickled request, one reply. It forks outside services and one process group a cluster, kills and signals groups, and
ends everything, removes the firewall rules and the work directory when told to, or when its socket closes because the
harness died. It decides nothing by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from fleet.environments.local.processes import adopt_orphans, fork

MARKER: Final = "BLACKSTART_FLEET"
"""Environment variable that every process of a fleet carries; its value is the fleet's id."""

LOCK_NAME: Final = "blackstart-fleet.lock"
PRELOAD: Final = (
    "aiohttp.web",
    "numpy",
    "prometheus_client",
    "fleet.serving.agent",
    "fleet.serving.allocator",
    "fleet.serving.gateway",
    "fleet.serving.server",
    "fleet.serving.store",
    "fleet.environments.local.control",
    "fleet.environments.local.node",
)


@dataclass(frozen=True)
class Start:
    """Fork ``module.function(*arguments)`` under ``name``; reply: its pid. ``group``: a process group of its own."""

    name: str
    module: str
    function: str
    arguments: tuple[Any, ...]
    log: Path
    group: bool = False


@dataclass(frozen=True)
class Execute:
    """Fork and execute a program under ``name``; reply: its pid."""

    name: str
    argv: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Signal:
    """Send ``number`` to the process or whole group ``name``; reply: was it there? Nothing to do is no error."""

    name: str
    number: int


@dataclass(frozen=True)
class Exits:
    """Reply: {name: wait status} of the processes that ended since their last start, killed ones included."""


@dataclass(frozen=True)
class AtEnd:
    """Run these commands when the fleet ends, whatever ended it. Replaces the earlier ones of the same ``key``."""

    key: str
    commands: tuple[tuple[str, ...], ...]


@dataclass
class _Child:
    pid: int
    group: bool


@dataclass
class Zygote:
    """The state: children by name, how the dead ended, and what to undo at the end."""

    connection: Connection
    work_dir: Path
    children: dict[str, _Child] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    at_end: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def run(self) -> None:
        """Serves requests until the socket closes."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.connection.send("ready")
        while True:
            readable, _, _ = select.select([self.connection.fileno(), wake_read], [], [])
            if wake_read in readable:
                os.read(wake_read, 4096)
                self.reap()
            if self.connection.fileno() in readable:
                try:
                    number, request = self.connection.recv()
                except (EOFError, OSError):
                    return
                reply: object
                try:
                    reply = self.handle(request)
                except Exception as error:  # the harness must hear of it, whatever it is
                    reply = error
                with contextlib.suppress(OSError):  # a harness that died meanwhile: the next recv says so
                    self.connection.send((number, reply))

    def handle(self, request: object) -> object:
        """Carries out one request."""
        match request:
            case Start(name, module, function, arguments, log, group):
                entry = getattr(importlib.import_module(module), function)
                return self._fork(name, lambda: entry(*arguments), log, group)
            case Execute(name, argv, log):
                return self._fork(name, lambda: os.execv(argv[0], argv), log, False)
            case Signal(name, number):
                return self._signal(name, number)
            case Exits():
                self.reap()
                return dict(self.exits)
            case AtEnd(key, commands):
                self.at_end[key] = commands
                return True
        raise ValueError(f"unknown request {request!r}")

    def reap(self) -> None:
        """Collects the dead. Where a group's leader died, the rest of its group goes before the leader is reaped (its
        number cannot be given to anybody else until then)."""
        names = {child.pid: name for name, child in self.children.items()}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            name = names.get(ended.si_pid, "")
            if name and self.children[name].group:
                _kill_group(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            if name:
                self.exits[name] = status
                del self.children[name]

    def end(self) -> None:
        """Kills every process, waits until all are reaped (5 s at most), undoes, removes the work directory."""
        for child in self.children.values():
            if child.group:
                _kill_group(child.pid, signal.SIGKILL)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.002)
            except ChildProcessError:
                break
        for commands in self.at_end.values():
            run_all(commands)
        shutil.rmtree(self.work_dir, ignore_errors=True)

    def _fork(self, name: str, entry: Callable[[], object], log: Path, group: bool) -> int:
        self.reap()
        if name in self.children:
            raise ValueError(f"{name} runs already as process {self.children[name].pid}")
        self.exits.pop(name, None)
        pid = fork(lambda: _discard(entry), log=log, group=group)
        self.children[name] = _Child(pid, group)
        return pid

    def _signal(self, name: str, number: int) -> bool:
        child = self.children.get(name)
        if child is None:
            return False
        if child.group:
            return _kill_group(child.pid, number)
        os.kill(child.pid, number)
        return True


def run_all(commands: tuple[tuple[str, ...], ...]) -> None:
    """Runs clean-up commands; one that fails (already undone) stops nothing."""
    for command in commands:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=3, check=False)


def _discard(entry: Callable[[], object]) -> None:
    entry()


def _kill_group(pgid: int, number: int) -> bool:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    return True


def main(argv: list[str]) -> None:
    """``zygote SOCKET_FD WORK_DIR``: preload, serve, end."""
    connection, work_dir = Connection(int(argv[1])), Path(argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the harness ends a fleet: by a word, or by dying
    with (work_dir / LOCK_NAME).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says that this directory has an owner who lives
        adopt_orphans()
        zygote = Zygote(connection, work_dir)
        try:
            for name in PRELOAD:
                importlib.import_module(name)
            gc.collect()
            gc.freeze()
            zygote.run()
        finally:
            zygote.end()


if __name__ == "__main__":
    from fleet.environments.local import zygote as importable  # pickles name its classes by the importable module

    importable.main(sys.argv)
