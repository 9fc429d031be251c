"""What all serving processes but the model server (``light``) share: their application, its guard, health and metrics.

Called by the ``run`` of each serving module, by hand or in the forked child of a preloaded parent: everything is
made inside the call (loop, registry, log file), nothing at import.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, disable_created_metrics, generate_latest

from fleet.serving.events import EventLog
from fleet.serving.process import (
    BACKLOG,
    KEEP_ALIVE_S,
    MAX_BODY_BYTES,
    SHUTDOWN_S,
    TOKEN_HEADER,
    Drain,
    cannot_listen,
    serve_until_told,
)
from fleet.spec import Checks


def serve(app: web.Application, host: str, port: int, *, log: logging.Logger, drain: Drain | None = None) -> None:
    """Serves ``app`` until SIGTERM or SIGINT, then awaits ``drain`` (still serving) and closes.

    ``FleetError`` when the address cannot be bound.
    """
    serve_until_told(_listening(app, host, port, log), host, port, log=log, drain=drain)


@asynccontextmanager
async def _listening(app: web.Application, host: str, port: int, log: logging.Logger) -> AsyncIterator[None]:
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
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        yield
    finally:
        await runner.cleanup()


async def healthz(_: web.Request) -> web.Response:
    """``GET /healthz`` of a process that is healthy as long as it answers."""
    return web.json_response({"status": "ok"})


def application(
    token: str,
    registry: CollectorRegistry,
    routes: Iterable[web.RouteDef],
    *,
    public: Collection[str] = (),
    health: Handler = healthz,
    events: EventLog | None = None,
    lifetime: Callable[[web.Application], AsyncIterator[None]] | None = None,
) -> web.Application:
    """A service with ``routes``, ``/healthz`` and ``/metrics``, guarded by ``token`` but for what is ``public``.

    ``events``: what ``/events`` streams, until shutdown. ``lifetime``: what it opens once its loop runs, and closes
    at the end."""

    disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody asks when a counter began

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[token_guard(token, public)])
    app.add_routes([*routes, web.get("/healthz", health), web.get("/metrics", metrics)])
    if lifetime is not None:
        app.cleanup_ctx.append(lifetime)
    if events is not None:

        async def end_streams(_: web.Application) -> None:
            events.close()

        app.router.add_get("/events", events.handler)
        app.on_shutdown.append(end_streams)
    return app


class Tasks:
    """A service's background tasks: what dies is logged, ``close`` ends what is left. Used in one event loop."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begins ``work``."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancels all and waits for them."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a task died", exc_info=error)


async def check(session: aiohttp.ClientSession, url: str, timeout_s: float, checks: Checks = "http") -> str:
    """A health check: "" when ``url`` answers 200 (``tcp``: when its port takes a connection), else what was seen.

    ``TimeoutError`` when no answer came in time."""
    if checks == "tcp":
        return await takes_connections(url, timeout_s)
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
            return "" if response.status == 200 else f"answered {response.status}"
    except TimeoutError:
        raise
    except aiohttp.ClientConnectorError as error:
        return f"cannot connect: {error.strerror}"
    except aiohttp.ClientError as error:
        return type(error).__name__


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
