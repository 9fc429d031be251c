"""The node-init: one single-threaded process a node that forks its agent and its model servers.

Forked by the control plane, which tells it over a socket pair what to start and stop; it tells back who ended and
how. When the socket closes (the control plane is gone) it kills everything of the node and ends. It never restarts
anything: that is the control plane's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from fleet.environments.local.processes import fork
from fleet.serving.config import AgentConfig, ServerConfig

STOP_GRACE_S: Final = 1.5
"""After SIGTERM a model server drains for at most 1 s; who still lives after this is killed."""

_LENGTH: Final = struct.Struct("!I")


@dataclass(frozen=True)
class StartProcess:
    """Fork the agent (``AgentConfig``) or a model server (``ServerConfig``) under ``name``."""

    name: str
    config: AgentConfig | ServerConfig
    log: Path


@dataclass(frozen=True)
class StopProcess:
    """End ``name``: SIGTERM, and SIGKILL after ``STOP_GRACE_S``."""

    name: str


@dataclass(frozen=True)
class Started:
    """``name`` was forked."""

    name: str
    pid: int
    t_emitted: int


@dataclass(frozen=True)
class Ended:
    """``name`` ended: exit code, or minus the signal's number."""

    name: str
    code: int


Message = StartProcess | StopProcess | Started | Ended


def frame(message: Message) -> bytes:
    """A message as bytes: its length, then its pickle (both ends are ours, forked from one parent)."""
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


async def read_message(reader: asyncio.StreamReader) -> Message:
    """The next message; ``asyncio.IncompleteReadError`` at the end of the stream."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return cast(Message, pickle.loads(await reader.readexactly(length)))


def run(control: socket.socket) -> None:
    """Serves ``control`` until it closes, then kills what is left."""
    _NodeInit(control).run()


class _NodeInit:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[int, str] = {}
        self._kill_at: dict[int, float] = {}
        self._buffer = b""

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while True:
                wait = max(0.0, min(self._kill_at.values()) - time.monotonic()) if self._kill_at else None
                readable, _, _ = select.select([self._control.fileno(), wake_read], [], [], wait)
                if wake_read in readable:
                    os.read(wake_read, 4096)
                    self._reap()
                if self._control.fileno() in readable and not self._receive():
                    return
                self._kill_overdue()
        except (BrokenPipeError, ConnectionResetError):
            return  # the control plane is gone
        finally:
            for pid in self._pids:
                _kill(pid, signal.SIGKILL)

    def _receive(self) -> bool:
        data = self._control.recv(1 << 16)
        if not data:
            return False
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            message = pickle.loads(self._buffer[_LENGTH.size : end])
            self._buffer = self._buffer[end:]
            self._obey(message)
        return True

    def _obey(self, message: Message) -> None:
        if isinstance(message, StartProcess):
            pid = fork(entry_of(message.config), log=message.log)
            self._pids[pid] = message.name
            self._control.sendall(frame(Started(message.name, pid, time.monotonic_ns())))
        elif isinstance(message, StopProcess):
            for pid, name in self._pids.items():
                if name == message.name and pid not in self._kill_at:
                    _kill(pid, signal.SIGTERM)
                    self._kill_at[pid] = time.monotonic() + STOP_GRACE_S

    def _reap(self) -> None:
        while self._pids:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._kill_at.pop(pid, None)
            if name := self._pids.pop(pid, ""):
                self._control.sendall(frame(Ended(name, os.waitstatus_to_exitcode(status))))

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for pid in [pid for pid, at in self._kill_at.items() if at <= now]:
            _kill(pid, signal.SIGKILL)
            del self._kill_at[pid]


def entry_of(config: AgentConfig | ServerConfig) -> Callable[[], Any]:
    """What runs in the forked child."""
    if isinstance(config, AgentConfig):
        from fleet.serving import agent

        return lambda: agent.run(config)
    from fleet.serving import server

    return lambda: server.run(config)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
