"""The model server: one replica of one model (or one pool of fine-tunes), OpenAI-compatible, one process.

The node starts it; the gateway sends it requests; it asks its node's agent for weights, keeps them in memory and tells
its cluster's control plane how far it is (Loading; Loading with ``weights`` once they are in memory; Ready; Failed).
It never answers from weights that it has not verified, and never takes more than slots + queue requests.

    POST /v1/chat/completions | /v1/completions | /v1/embeddings     GET /v1/models, /metrics
    GET /healthz?wait_s=S (200 = ready; while it loads, the answer comes when it is, or after S seconds)

On SIGTERM it goes on serving while requests are in flight, at most ``drain_s`` less the time to close; its answers
then carry ``x-draining: 1``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from fleet.serving.completions import KIND_OF_PATH, Answer, Question, parse
from fleet.serving.config import ServerConfig
from fleet.serving.loader import GpuMemory, Loader, Weights
from fleet.serving.serve import application, process_log, serve, token_headers
from fleet.serving.server_metrics import ServerMetrics
from history.clock import NS_PER_MS, NS_PER_S, now_ns
from history.errors import FleetError, UsageError
from history.op import EMBEDDING, RESIDENT

LINGER_S: Final = 0.15
"""A server that was told to end serves at least this much longer: routers learn of it meanwhile."""

CLOSE_S: Final = 0.4
"""What is left of ``drain_s`` for cutting off what did not end and for closing."""

MOST_WAIT_S: Final = 10.0
"""Nobody's question waits longer for an answer."""

_STATE_TRIES: Final = 20
_STATE_RETRY_S: Final = 0.1


class AccessLog:
    """One JSON line an answered request, one write a line; nothing without a path."""

    def __init__(self, path: Path | None, replica: str) -> None:
        self._replica = replica
        self._file: FileIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)

    def write(self, model: str, status: int, first_ns: int, done_ns: int) -> None:
        """``first_ns`` was read just before the first byte was written, ``done_ns`` after the last."""
        if self._file is not None:
            record = {"t_first_byte": first_ns, "t_done": done_ns, "model": model}
            self._file.write(msgspec.json.encode(record | {"replica": self._replica, "status": status}) + b"\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class ModelServer:
    """The state of a server process. Used from one event loop; what needs one is opened in its ``lifetime``."""

    _session: aiohttp.ClientSession
    _memory: GpuMemory

    def __init__(self, config: ServerConfig, registry: CollectorRegistry, log: logging.Logger) -> None:
        self._config = config
        self._model = config.model
        self._names = config.model.pool or (config.model.name,)
        self._log = log
        self._slots = asyncio.Semaphore(config.model.slots)  # first come, first served
        self._admitted = 0
        self._running = 0
        self._generated = 0
        self._ids = count(1)
        self._first_tier = ""
        self._place = f"{config.cluster}/{config.node}/{config.replica}"
        self._access = AccessLog(config.access_log, config.replica)
        self._metrics = ServerMetrics(
            config,
            registry,
            running=lambda: self._running,
            waiting=lambda: self._admitted - self._running,
            gpu_bytes=lambda: self._memory.used_bytes,
        )
        self.phase = "Starting"
        self.settled = asyncio.Event()
        self.draining = False

    # -- life ---------------------------------------------------------------------------------------------------

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the client session, starts the load, and ends both."""
        config = self._config
        async with aiohttp.ClientSession(headers=token_headers(config.token)) as self._session:
            self._loader = Loader(config.agent_url, self._session, config.load_timeout_s)
            self._memory = GpuMemory(self._load, self._model.gpu_memory_bytes)
            loading = asyncio.create_task(self._start())
            yield
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await self._memory.close()
            self._access.close()

    async def _start(self) -> None:
        """Loads what a dedicated server needs, then is ready; a pool is ready at once."""
        name = self._model.name
        self.phase = "Loading"
        try:
            if self._model.fine_tunes:
                self._settle("Ready")
                await self._tell("Ready")
                return
            await self._tell("Loading")
            weights = await self._load(name)
            self._memory.put(weights)
            self._first_tier = weights.tier
            self._settle("Ready")  # before anybody is told: a request may follow at once
            seconds = weights.fetch_s + weights.deserialize_s
            facts = {"weights": weights.tier, "bytes": weights.bytes, "seconds": seconds}
            await self._tell("Loading", **facts)
            await self._tell("Ready", **facts)
        except FleetError as error:
            self._log.error("%s (%s)", error.message, error.hint)
            await self._fail(error.message)
        except Exception as error:  # a replica that hangs in Loading would tell nobody why
            self._log.exception("the load of %s failed", name)
            await self._fail(f"the load of {name} failed: {error!r}")

    def _settle(self, phase: str) -> None:
        self.phase = phase
        self.settled.set()

    async def _fail(self, reason: str) -> None:
        self._settle("Failed")
        await self._tell("Failed", reason=reason)

    async def drain(self) -> None:
        """Goes on serving until nothing is in flight, within the limits of the module docstring."""
        self.draining = True
        deadline_ns = now_ns() + round(max(LINGER_S, self._config.drain_s - CLOSE_S) * NS_PER_S)
        await asyncio.sleep(LINGER_S)
        while self._admitted and now_ns() < deadline_ns:
            await asyncio.sleep(0.01)

    async def _load(self, model: str) -> Weights:
        start_ns = now_ns()
        weights = await self._loader.load(model)
        self._metrics.loaded(weights, (now_ns() - start_ns) / NS_PER_S)
        self._log.info("%s: %d bytes from %s", model, weights.bytes, weights.tier)
        return weights

    async def _tell(self, phase: str, **facts: object) -> None:
        """Posts the state to the control plane; tries again while that does not answer, a bounded time."""
        if not self._config.control_url:
            return
        url = f"{self._config.control_url.rstrip('/')}/replicas/{self._config.replica}/state"
        body = {"phase": phase, "t_emitted": now_ns(), **facts}
        for _ in range(_STATE_TRIES):
            try:
                timeout = aiohttp.ClientTimeout(total=2.0)
                async with self._session.post(url, data=msgspec.json.encode(body), timeout=timeout) as response:
                    if response.status < 500:
                        return
            except (aiohttp.ClientError, TimeoutError) as error:
                self._log.warning("cannot tell %s that I am %s: %r", url, phase, error)
            await asyncio.sleep(_STATE_RETRY_S)

    # -- requests -----------------------------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One completion, chat completion or embedding."""
        start_ns = now_ns()
        replica, slots, queue = self._config.replica, self._model.slots, self._model.queue
        if self.phase != "Ready":
            return self._refuse(503, f"{replica} is not ready: {self.phase}")
        if self._admitted >= slots + queue:
            return self._refuse(429, f"{slots} slots and {queue} places in the queue are taken")
        self._admitted += 1
        try:
            question = parse(request.path, await request.read())
            if question.model not in self._names:
                return self._refuse(404, f"{replica} does not serve {question.model!r}")
            weights, tier = await self._memory.get(question.model)
            async with self._slots:
                self._running += 1
                try:
                    return await self._generate(request, question, weights, tier, start_ns)
                finally:
                    self._running -= 1
        except UsageError as error:
            return self._refuse(400, error.message)
        except FleetError as error:
            self._log.error("%s (%s)", error.message, error.hint)
            return self._refuse(503, error.message)
        except asyncio.CancelledError:
            self._metrics.aborted()
            raise
        finally:
            self._admitted -= 1

    async def _generate(
        self, request: web.Request, question: Question, weights: Weights, tier: str, start_ns: int
    ) -> web.StreamResponse:
        if self._first_tier and tier == RESIDENT:  # the first answer after the start-up load says where from
            tier, self._first_tier = self._first_tier, ""
        slower = self._model.cold_factor if self._generated < self._model.cold_requests else 1.0
        first_ms, token_ms = self._model.first_token_ms * slower, self._model.token_ms * slower
        self._generated += 1
        answer = Answer(question, weights.digest, f"cmpl-{self._config.replica}-{next(self._ids)}", int(time.time()))
        headers = {"x-served-by": self._place, "x-weights": tier}
        response: web.StreamResponse
        if question.stream:
            sends, response = answer.sends(), web.StreamResponse(headers=headers)
            response.content_type, response.headers["Cache-Control"] = "text/event-stream", "no-cache"
            response.enable_chunked_encoding()
        else:
            sends = [(1, b"")]  # its body leaves with its headers, in one piece
            response = web.Response(body=answer.whole(), headers=headers, content_type="application/json")
            first_ms += question.tokens * token_ms
        due_ns, first_ns = now_ns() + round(first_ms * NS_PER_MS), 0
        for number, (tokens, events) in enumerate(sends, 1):
            due_ns += round(tokens * token_ms * NS_PER_MS) if first_ns else 0
            await asyncio.sleep(max(0, due_ns - now_ns()) / NS_PER_S)
            if not first_ns:
                if self.draining:
                    response.headers["x-draining"] = "1"
                first_ns = now_ns()
                await response.prepare(request)  # headers leave with the first token
            if number < len(sends):
                await response.write(events)
            else:
                await response.write_eof(events)
        self._done(question, start_ns, first_ns)
        return response

    def _done(self, question: Question, start_ns: int, first_ns: int) -> None:
        done_ns = now_ns()
        self._access.write(question.model, 200, first_ns, done_ns)
        self._metrics.answered(
            (first_ns - start_ns) / NS_PER_S,
            (done_ns - start_ns) / NS_PER_S,
            question.tokens,
            "stop" if question.kind == EMBEDDING else "length",
        )

    def _refuse(self, status: int, reason: str) -> web.Response:
        self._metrics.refused(status)
        response = web.json_response({"error": {"message": reason, "code": status}}, status=status)
        response.headers["x-served-by"] = self._place
        if status == 429:
            response.headers["Retry-After"] = "1"
        now = now_ns()
        self._access.write(self._model.name, status, now, now)
        return response

    async def models(self, _: web.Request) -> web.Response:
        """``GET /v1/models``."""
        return web.json_response({"object": "list", "data": [{"id": n, "object": "model"} for n in self._names]})

    async def healthz(self, request: web.Request) -> web.Response:
        """200 when requests are answered, else 503 with the phase; how long it may wait is the asker's to say."""
        with contextlib.suppress(TimeoutError, ValueError):
            wait_s = max(0.0, min(float(request.query.get("wait_s", 0)), MOST_WAIT_S))
            await asyncio.wait_for(self.settled.wait(), wait_s)
        phase = "Draining" if self.draining else self.phase
        return web.json_response({"phase": phase}, status=200 if phase == "Ready" else 503)


def build(config: ServerConfig, log: logging.Logger | None = None) -> tuple[web.Application, ModelServer]:
    """The server as an application with a registry of its own, and the object behind it."""
    registry = CollectorRegistry()
    model = ModelServer(config, registry, log or logging.Logger("server"))
    routes = [*(web.post(path, model.answer) for path in KIND_OF_PATH), web.get("/v1/models", model.models)]
    public, health = KIND_OF_PATH, model.healthz
    return application(config.token, registry, routes, public=public, health=health, lifetime=model.lifetime), model


def run(config: ServerConfig, listening: socket.socket | None = None) -> None:
    """Serves until SIGTERM, then drains."""
    log = process_log(f"server-{config.replica}", config.log_dir)
    app, model = build(config, log)
    serve(app, config.host, config.port, log=log, drain=model.drain, listening=listening)


if __name__ == "__main__":
    from fleet.serving.byhand import by_hand

    by_hand(run, ServerConfig, "Run one model replica.")
