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
from collections.abc import AsyncIterator, Mapping, Sequence
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from fleet.serving import light
from fleet.serving.completions import KIND_OF_PATH, Answer, Question, parse
from fleet.serving.config import ServerConfig
from fleet.serving.loader import GpuMemory, Loader, Weights
from fleet.serving.process import process_log, serve_until_told, token_headers
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
_STATE_TIMEOUT_S: Final = 2.0


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
    """The state of a server process. Used from one event loop; what needs one is opened in ``serving``."""

    _memory: GpuMemory

    def __init__(self, config: ServerConfig, log: logging.Logger) -> None:
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
            running=lambda: self._running,
            waiting=lambda: self._admitted - self._running,
            gpu_bytes=lambda: self._memory.used_bytes,
        )
        self.phase = "Starting"
        self.settled = asyncio.Event()
        self.draining = False

    # -- life ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self, taken: socket.socket | None = None) -> AsyncIterator[int]:
        """Begins the load and answers while it is open; yields its port. ``taken``: a socket that has the address."""
        config = self._config
        self._loader = Loader(config.agent_url, config.token, config.load_timeout_s)
        self._memory = GpuMemory(self._load, self._model.gpu_memory_bytes)
        loading: asyncio.Task[None] | None = None
        try:
            async with light.Service(self.routes, self._log).listening(config.host, config.port, taken) as port:
                loading = asyncio.create_task(self._start())
                yield port
        finally:  # requests have ended by now
            if loading is not None:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            await self._memory.close()
            self._access.close()

    @property
    def routes(self) -> light.Routes:
        """What it answers."""
        asked: dict[str, tuple[str, light.Handler]] = dict.fromkeys(KIND_OF_PATH, ("POST", self.answer))
        told = {"/v1/models": self.models, "/healthz": self.healthz, "/metrics": self.metrics}
        return asked | {path: ("GET", handler) for path, handler in told.items()}

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
        headers = token_headers(self._config.token)
        for _ in range(_STATE_TRIES):
            try:
                status, _ = await light.post(url, msgspec.json.encode(body), headers, _STATE_TIMEOUT_S)
                if status < 500:
                    return
            except OSError as error:
                self._log.warning("cannot tell %s that I am %s: %r", url, phase, error)
            await asyncio.sleep(_STATE_RETRY_S)

    # -- requests -----------------------------------------------------------------------------------------------

    async def answer(self, request: light.Request, reply: light.Reply) -> None:
        """One completion, chat completion or embedding."""
        start_ns = now_ns()
        replica, slots, queue = self._config.replica, self._model.slots, self._model.queue
        if self.phase != "Ready":
            return self._refuse(reply, 503, f"{replica} is not ready: {self.phase}")
        if self._admitted >= slots + queue:
            return self._refuse(reply, 429, f"{slots} slots and {queue} places in the queue are taken")
        self._admitted += 1
        try:
            question = parse(request.path, request.body)
            if question.model not in self._names:
                return self._refuse(reply, 404, f"{replica} does not serve {question.model!r}")
            weights, tier = await self._memory.get(question.model)
            async with self._slots:
                self._running += 1
                try:
                    await self._generate(reply, question, weights, tier, start_ns)
                finally:
                    self._running -= 1
        except UsageError as error:
            self._refuse(reply, 400, error.message)
        except FleetError as error:
            self._log.error("%s (%s)", error.message, error.hint)
            self._refuse(reply, 503, error.message)
        except asyncio.CancelledError:
            self._metrics.aborted()
            raise
        finally:
            self._admitted -= 1

    async def _generate(
        self, reply: light.Reply, question: Question, weights: Weights, tier: str, start_ns: int
    ) -> None:
        if self._first_tier and tier == RESIDENT:  # the first answer after the start-up load says where from
            tier, self._first_tier = self._first_tier, ""
        slower = self._model.cold_factor if self._generated < self._model.cold_requests else 1.0
        first_ms, token_ms = self._model.first_token_ms * slower, self._model.token_ms * slower
        self._generated += 1
        answer = Answer(question, weights.digest, f"cmpl-{self._config.replica}-{next(self._ids)}", int(time.time()))
        due_ns = now_ns() + round(first_ms * NS_PER_MS)
        if question.stream:
            first_ns = await self._stream(reply, answer.sends(), tier, due_ns, token_ms)
        else:
            body = answer.whole()
            await _until(due_ns + round(question.tokens * token_ms * NS_PER_MS))
            first_ns = now_ns()
            reply.whole(200, body, self._headers(tier))
        self._done(question, start_ns, first_ns)

    async def _stream(
        self, reply: light.Reply, sends: Sequence[tuple[int, bytes]], tier: str, due_ns: int, token_ms: float
    ) -> int:
        """Each piece when its last token is due, the first at ``due_ns``; returns when that one left."""
        (_, piece), *rest = sends
        await _until(due_ns)
        first_ns = now_ns()
        reply.begin(200, {"cache-control": "no-cache", **self._headers(tier)}, "text/event-stream")
        for tokens, later in rest:
            await reply.write(piece)
            due_ns += round(tokens * token_ms * NS_PER_MS)
            await _until(due_ns)
            piece = later
        reply.end(piece)
        return first_ns

    def _headers(self, tier: str) -> Mapping[str, str]:
        found = {"x-served-by": self._place, "x-weights": tier}
        return found | {"x-draining": "1"} if self.draining else found

    def _done(self, question: Question, start_ns: int, first_ns: int) -> None:
        done_ns = now_ns()
        self._access.write(question.model, 200, first_ns, done_ns)
        self._metrics.answered(
            (first_ns - start_ns) / NS_PER_S,
            (done_ns - start_ns) / NS_PER_S,
            question.tokens,
            "stop" if question.kind == EMBEDDING else "length",
        )

    def _refuse(self, reply: light.Reply, status: int, reason: str) -> None:
        self._metrics.refused(status)
        headers = {"x-served-by": self._place} | ({"retry-after": "1"} if status == 429 else {})
        reply.tell(status, {"error": {"message": reason, "code": status}}, headers)
        now = now_ns()
        self._access.write(self._model.name, status, now, now)

    async def models(self, _: light.Request, reply: light.Reply) -> None:
        """``GET /v1/models``."""
        reply.tell(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self._names]})

    async def metrics(self, _: light.Request, reply: light.Reply) -> None:
        """``GET /metrics``."""
        reply.whole(200, self._metrics.text(), {}, self._metrics.content_type)

    async def healthz(self, request: light.Request, reply: light.Reply) -> None:
        """200 when requests are answered, else 503 with the phase; how long it may wait is the asker's to say."""
        with contextlib.suppress(TimeoutError, ValueError):
            wait_s = max(0.0, min(float(request.query.get("wait_s", 0)), MOST_WAIT_S))
            await asyncio.wait_for(self.settled.wait(), wait_s)
        phase = "Draining" if self.draining else self.phase
        reply.tell(200 if phase == "Ready" else 503, {"phase": phase})


async def _until(due_ns: int) -> None:
    await asyncio.sleep(max(0, due_ns - now_ns()) / NS_PER_S)


def run(config: ServerConfig, listening: socket.socket | None = None) -> None:
    """Serves until SIGTERM, then drains."""
    log = process_log(f"server-{config.replica}", config.log_dir)
    model = ModelServer(config, log)
    serve_until_told(model.serving(listening), config.host, config.port, log=log, drain=model.drain)


if __name__ == "__main__":
    from fleet.serving.byhand import by_hand

    by_hand(run, ServerConfig, "Run one model replica.")
