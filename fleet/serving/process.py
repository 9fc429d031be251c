"""What every serving process has, whatever speaks HTTP for it: it serves until it is told to end, keeps a log of its
own, and knows its run's token. Imports nothing that a process could do without at its start.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from history.errors import FleetError

MAX_BODY_BYTES: Final = 16 * 1024**2

SHUTDOWN_S: Final = 0.05
"""How long open requests may take to end by themselves after SIGTERM; then they are cancelled."""

KEEP_ALIVE_S: Final = 75.0
"""An idle connection lives this long here; clients drop theirs sooner, so that none is reused as it closes."""

BACKLOG: Final = 1024

TOKEN_HEADER: Final = "x-blackstart-token"

Drain = Callable[[], Awaitable[None]]


def serve_until_told(
    listening: AbstractAsyncContextManager[Any],
    host: str,
    port: int,
    *,
    log: logging.Logger,
    drain: Drain | None = None,
) -> None:
    """Holds ``listening``, which is at ``host`` and ``port``, open until SIGTERM or SIGINT; then awaits ``drain``,
    still serving, and closes it."""

    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            async with listening:
                log.info("serving on %s:%d, pid %d", host, port, os.getpid())
                await stop.wait()
                if drain is not None:
                    await drain()
        finally:
            log.info("ended")

    asyncio.run(until_told())


async def stop_accepting(*listeners: socket.socket) -> None:
    """Nothing is accepted any more, and what was has reached its protocol: now the server can close.

    asyncio makes a connection's transport one turn of the loop after it accepted it, and tells the protocol in the
    turn after that. A server closed within the first forgets the connection (CPython 3.11: ``Server._attach`` raises
    once it is closed), one closed within the second cannot yet say good-bye to it: open, and nobody behind it.
    """
    loop = asyncio.get_running_loop()
    for listener in listeners:
        loop.remove_reader(listener.fileno())
    for _turn in range(2):
        await asyncio.sleep(0)


def cannot_listen(host: str, port: int, error: OSError) -> FleetError:
    """What to raise when an address cannot be bound."""
    return FleetError(
        f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
        hint="another process holds this port, or the address is not this machine's; choose another",
    )


def token_headers(token: str) -> dict[str, str]:
    """What a client of guarded endpoints sends."""
    return {TOKEN_HEADER: token} if token else {}


def process_log(name: str, log_dir: Path | None) -> logging.Logger:
    """A logger of this process alone: ``log_dir``/NAME.log, or standard error without a directory."""
    log = logging.Logger(name)
    handler: logging.Handler = logging.StreamHandler()
    if log_dir is not None:
        log_dir.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log_dir / f"{name}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return log
