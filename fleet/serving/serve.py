"""What all serving processes share: bind, serve until SIGTERM, end within a second; metrics and log handlers.

Called by the ``run`` of each serving module, by hand or in the forked child of a preloaded parent: everything is
made inside the call (loop, registry, log file), nothing at import.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import click
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from history.errors import BlackstartError, FleetError

SHUTDOWN_S: Final = 0.05
"""How long open requests may take to end by themselves after SIGTERM; then they are cancelled."""

KEEP_ALIVE_S: Final = 75.0
"""An idle connection lives this long here; clients drop theirs sooner, so that none is reused as it closes."""

TOKEN_HEADER: Final = "x-blackstart-token"
TOKEN_VARIABLE: Final = "BLACKSTART_TOKEN"
"""Environment variable that gives the token to a service that is started by hand."""

Drain = Callable[[], Awaitable[None]]
Config = TypeVar("Config")


def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    log: logging.Logger,
    drain: Drain | None = None,
    listening: socket.socket | None = None,
) -> None:
    """Serves ``app`` until SIGTERM or SIGINT, then awaits ``drain`` (still serving) and closes.

    ``listening``: a socket that has the address already. ``FleetError`` when the address cannot be bound.
    """
    asyncio.run(_serve(app, host, port, log, drain, listening))


async def _serve(
    app: web.Application,
    host: str,
    port: int,
    log: logging.Logger,
    drain: Drain | None,
    listening: socket.socket | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=log,
        handler_cancellation=True,  # a client that hangs up cancels its handler: that is how 499 is seen
        keepalive_timeout=KEEP_ALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    try:
        try:
            site = web.SockSite(runner, listening) if listening else web.TCPSite(runner, host, port, backlog=1024)
            await site.start()
        except OSError as error:
            raise FleetError(
                f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
                hint="another process holds this port, or the address is not this machine's; choose another",
            ) from error
        log.info("serving on %s:%d, pid %d", host, port, os.getpid())
        await stop.wait()
        if drain is not None:
            await drain()
    finally:
        await runner.cleanup()
        log.info("ended")


async def takes_connections(url: str, timeout_s: float) -> str:
    """The TCP check: "" when ``url``'s port takes a connection, else what was seen. It asks for no answer."""
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port), timeout_s)
    except TimeoutError:
        return f"no connection within {timeout_s:g} s"
    except OSError as error:
        return f"cannot connect: {error.strerror}"
    writer.close()
    return ""


def token_guard(token: str, public: Collection[str] = ()) -> Middleware:
    """Middleware: whatever is neither a GET nor in ``public`` needs ``token`` in ``TOKEN_HEADER``, else 403.

    A service without a token takes no such request from anybody. Put it on every application, so that an endpoint
    added later is closed until somebody says otherwise.
    """
    wanted = token.encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method in ("GET", "HEAD") or request.path in public or request.match_info.http_exception:
            return await handler(request)
        given = request.headers.get(TOKEN_HEADER, "").encode("utf-8", "surrogateescape")
        if wanted and hmac.compare_digest(given, wanted):
            return await handler(request)
        reason = f"{request.method} {request.path} needs this run's token in {TOKEN_HEADER}"
        return web.json_response({"error": reason}, status=403)

    return guard


def token_headers(token: str) -> dict[str, str]:
    """What a client of guarded endpoints sends."""
    return {TOKEN_HEADER: token} if token else {}


def token_by_hand() -> str:
    """The token of a service that is started by hand; "" without one."""
    return os.environ.get(TOKEN_VARIABLE, "")


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


def metrics_handler(registry: CollectorRegistry) -> Callable[[web.Request], Awaitable[web.Response]]:
    """``GET /metrics`` of one process's own registry, in Prometheus text format."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return metrics


async def healthz(_: web.Request) -> web.Response:
    """``GET /healthz`` of a process that is healthy as long as it answers."""
    return web.json_response({"status": "ok"})


def run_by_hand(run: Callable[[Config], None], config: Config) -> None:
    """For the command lines: a known error becomes its message and hint, not a traceback."""
    try:
        run(config)
    except BlackstartError as error:
        raise click.ClickException(f"{error.message}\n{error.hint}") from error
