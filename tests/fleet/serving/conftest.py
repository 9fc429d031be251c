"""A small laboratory for serving tests: real HTTP on ephemeral ports in one event loop, and stubs of the neighbours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fleet.serving.events import EventLog
from fleet.serving.process import stop_accepting, token_headers
from fleet.serving.serve import token_guard
from fleet.serving.server import ModelServer
from fleet.serving.weights import Manifest, make_weights
from tests.fleet.serving.allocator_stage import Stage

TOKEN = "token-of-this-run"
"""What the laboratory's session sends and its stubs demand, as in a run."""


class Served(TestServer):
    """A test server that has said good-bye to every connection when it is closed, also to one just accepted."""

    listener: socket.socket

    async def close(self) -> None:
        """Idempotent."""
        if self.listener.fileno() >= 0:
            await stop_accepting(self.listener)
        await super().close()


class Lab:
    """``async with Lab() as lab``: everything that it started ends with it."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self.session: aiohttp.ClientSession

    async def __aenter__(self) -> Lab:
        await self._stack.__aenter__()
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession(headers=token_headers(TOKEN)))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.__aexit__(None, None, None)

    async def serve(self, app: web.Application, port: int | None = None) -> Served:
        """The app on a port of its own (or a given one)."""
        listener = socket.create_server(("127.0.0.1", port or 0))
        server = Served(app, host="127.0.0.1", port=port, socket_factory=lambda *_: listener)
        server.listener = listener
        self._stack.callback(listener.close)
        await server.start_server(shutdown_timeout=0.1)
        self._stack.push_async_callback(server.close)
        return server

    async def url(self, app: web.Application) -> str:
        """The app's base URL."""
        return str((await self.serve(app)).make_url("")).rstrip("/")

    async def serving(self, model: ModelServer) -> str:
        """The base URL of a model server, which serves until the end."""
        return f"http://127.0.0.1:{await self._stack.enter_async_context(model.serving())}"

    async def get_json(self, url: str) -> Any:
        """The JSON body of a GET."""
        async with self.session.get(url) as response:
            return await response.json()

    async def metric(self, url: str, name: str) -> float:
        """The sum of a metric's samples whose line starts with ``name``."""
        async with self.session.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    async def until(self, true: Callable[[], Any], at_most_s: float = 5.0) -> float:
        """Waits until ``true()`` (plain or awaitable) holds; returns the seconds it took."""
        start = time.monotonic()
        while True:
            value = true()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return time.monotonic() - start
            assert time.monotonic() - start < at_most_s, "it never became true"
            await asyncio.sleep(0.002)


class ControlPlane:
    """A stub of a cluster's control plane with the wire contract: replicas become ready when told, or at once."""

    def __init__(self, lab: Lab, name: str, nodes: dict[str, int]) -> None:
        self.name = name
        self.nodes = dict(nodes)
        self.gpus_of: dict[str, int] = {}
        self.auto_ready = True
        self.late_s = (0.0, 0.0)  # before a replica is placed, and after it, until the answer
        self.refuses = 0  # so many deletions
        self.deaf = 0  # to so many placings: 504
        self.slow = False  # too slow to say that it is ready
        self.url = ""
        self.calls: list[tuple[str, str]] = []
        self._lab = lab
        self._port: int | None = None
        self._server: Served | None = None
        self._fresh()

    def _fresh(self) -> None:
        self.events = EventLog()
        self.replicas: dict[str, dict[str, Any]] = {}
        self.states: list[dict[str, Any]] = []
        self.listed = 0

    async def power_on(self) -> None:
        """Starts empty, at the same address as before."""
        self._fresh()
        app = web.Application(middlewares=[token_guard(TOKEN)])
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/nodes", self._nodes)
        app.router.add_get("/replicas", self._list)
        app.router.add_put("/replicas/{name}", self._put)
        app.router.add_delete("/replicas/{name}", self._delete)
        app.router.add_post("/replicas/{name}/state", self._state)
        app.router.add_get("/events", self.events.handler)
        self._server = await self._lab.serve(app, self._port)
        self._port = self._server.port
        self.url = f"http://127.0.0.1:{self._port}"

    async def power_off(self) -> None:
        """From now on connections are refused."""
        assert self._server is not None
        self.events.close()
        await self._server.close()

    def ready(self, name: str, model: str, url: str, node: str = "n1") -> None:
        """A replica is ready: listed, and announced."""
        row = {"name": name, "model": model, "gpus": 1, "node": node, "phase": "Ready", "reason": "", "url": url}
        self.replicas[name] = row
        self.announce("replica.ready", name, detail={"url": url})

    def announce(self, kind: str, name: str, detail: dict[str, Any] | None = None) -> None:
        """An event of a listed replica."""
        row = self.replicas[name]
        self.events.append(
            kind, model=row["model"], cluster=self.name, node=row["node"], replica=name, detail=detail or {}
        )

    def gone(self, name: str) -> None:
        """A replica was deleted."""
        self.announce("replica.gone", name)
        del self.replicas[name]

    def _free(self, node: str) -> int:
        used: int = sum(row["gpus"] for row in self.replicas.values() if row["node"] == node)
        return self.nodes[node] - used

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": not self.slow}, status=503 if self.slow else 200)

    async def _nodes(self, _: web.Request) -> web.Response:
        rows = [{"name": n, "gpus": g, "free": self._free(n), "ready": True} for n, g in self.nodes.items()]
        return web.json_response({"nodes": rows})

    async def _list(self, _: web.Request) -> web.Response:
        self.listed += 1
        return web.json_response({"replicas": list(self.replicas.values())})

    async def _put(self, request: web.Request) -> web.Response:
        name, body = request.match_info["name"], await request.json()
        self.calls.append(("put", name))
        if self.deaf:
            self.deaf -= 1
            return web.json_response({"error": "nobody knows"}, status=504)
        return await asyncio.shield(asyncio.create_task(self._place(name, body)))  # also when nobody waits any more

    async def _place(self, name: str, body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(self.late_s[0])
        if name not in self.replicas:
            gpus = self.gpus_of.get(body["model"], 1)
            node = body.get("node") or max(self.nodes, key=self._free)
            assert self._free(node) >= gpus, f"{name} overcommits {node}"
            phase = "Ready" if self.auto_ready else "Loading"
            row = {"name": name, "model": body["model"], "gpus": gpus, "node": node, "phase": phase}
            self.replicas[name] = row | {"reason": "", "url": "http://127.0.0.1:9"}
        await asyncio.sleep(self.late_s[1])
        return web.json_response(self.replicas[name])

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.calls.append(("delete", name))
        if self.refuses:
            self.refuses -= 1
            return web.json_response({"error": "later"}, status=503)
        if name in self.replicas:
            self.gone(name)
        return web.json_response({})

    async def _state(self, request: web.Request) -> web.Response:
        self.states.append({"replica": request.match_info["name"], **await request.json()})
        return web.json_response({})


@contextlib.asynccontextmanager
async def _lab() -> AsyncIterator[Lab]:
    async with Lab() as lab:
        yield lab


@pytest.fixture(scope="session")
def token() -> str:
    """The token of the laboratory's run."""
    return TOKEN


@pytest.fixture(scope="session")
def lab() -> Any:
    """``async with lab() as it:``"""
    return _lab


@pytest.fixture(scope="session")
def control_plane() -> Any:
    """``control_plane(it, name, nodes)``: a stub cluster; ``await it.power_on()``."""
    return ControlPlane


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Manifest]:
    """A store root with 300,000 bytes of weights for model ``m`` in four pieces."""
    root = tmp_path / "store"
    return root, make_weights(root, "m", 300_000, seed=7, piece_bytes=80_000)


@pytest.fixture
def stage(lab: Any, control_plane: Any) -> Any:
    """``async with stage(gpus=8, **changes) as s:`` an allocator over three stub clusters (``allocator_stage``)."""

    @contextlib.asynccontextmanager
    async def make(gpus: int = 8, **changes: Any) -> AsyncIterator[Stage]:
        async with lab() as it:
            made = Stage(it, control_plane, gpus)
            await made.start(**changes)
            yield made

    return make
