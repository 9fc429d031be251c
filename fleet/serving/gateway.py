"""The gateway: one entry point for all models, in front of ready replicas in any cluster. One process, outside all.

It forwards a request to the least loaded ready replica of its model and passes the answer on as it comes; it never
buffers a stream, never retries unless ``retries`` says so, and never finishes an answer that was cut upstream.

    POST /v1/chat/completions | /v1/completions | /v1/embeddings     GET /v1/models, /state, /healthz, /metrics
    POST /share?cluster=NAME&share=0.5     gradual return: the part of the traffic it could take that a cluster is given
    POST /drain {"cluster", "replica"}     no new requests for it; answers when it has none in flight, at most 1 s

Own answers: 404 unknown model, 503 no ready replica, 502 connect failed or connection lost, 504 time-out (these two
say in ``x-routed-to`` which replica failed). Counted besides: 499 when the client left first, "cut" when a stream broke
after its first byte (the client sees the cut).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from fleet.serving.config import GatewayConfig
from fleet.serving.gateway_metrics import GatewayMetrics
from fleet.serving.process import process_log
from fleet.serving.routing import Replica, Routes
from fleet.serving.serve import application, serve
from fleet.serving.watching import Watching
from history.clock import NS_PER_S, now_ns

PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
DRAIN_S: Final = 1.0
IDLE_S: Final = 15.0
"""Idle upstream connections are dropped after this, well before the other side would."""

_REQUEST_HEADERS: Final = ("Content-Type", "Authorization", "Accept", "X-Request-Id")
_ANSWER_HEADERS: Final = ("Content-Type", "x-served-by", "x-weights", "Retry-After", "Cache-Control")


class _Asked(msgspec.Struct, frozen=True):
    model: str


_decode = msgspec.json.Decoder(_Asked).decode


class _Failed(Exception):
    """An attempt failed before the first byte: ``status`` for the client, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Gateway:
    """The state of a gateway process. Used from one event loop; what needs one is opened in its ``lifetime``."""

    _session: aiohttp.ClientSession
    _watching: Watching

    def __init__(self, config: GatewayConfig, registry: CollectorRegistry, log: logging.Logger) -> None:
        self._config = config
        self._switches = config.switches
        self._log = log
        slow_start_s = config.switches.slow_start_s
        self.routes = Routes(config.models, eject_after=config.health_failures, slow_start_s=slow_start_s)
        self._metrics = GatewayMetrics(self.routes, registry)

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens both client sessions (requests: kept alive; watches and checks: new connections) and the watches."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._switches.connect_timeout_s, sock_read=self._switches.read_timeout_s
        )
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, happy_eyeballs_delay=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            ) as self._session,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as side,
        ):
            self._watching = Watching(self._config, self.routes, side, self._log)
            self._watching.start()
            yield
            await self._watching.close()

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """One request to one replica (more only with ``retries``), counted once whatever happens."""
        start_ns = now_ns()
        model, cluster, code = "", "", "499"  # stays 499 when the client's leaving cancels us
        try:
            body = await request.read()
            try:
                model = _decode(body).model
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                code = "400"
                return _error(400, f"the body needs a model: {error}")
            if not self.routes.known(model):
                code, unknown, model = "404", model, ""
                return _error(404, f"there is no model {unknown!r}")
            tried: list[Replica] = []
            while True:
                replica, instead = self._choose(model, tried)
                if replica is None:
                    code = "503"
                    return _error(503, f"no replica of {model!r} is ready")
                cluster = replica.cluster
                try:
                    response, code = await self._attempt(request, replica, body, instead)
                    if code == "429" and not instead and (other := self.routes.choose(self._fallback(model))):
                        cluster = other.cluster
                        response, code = await self._attempt(request, other, body, self._fallback(model))
                    return response
                except _Failed as failure:
                    tried.append(replica)
                    if len(tried) > self._switches.retries:
                        code = str(failure.status)
                        answer = _error(failure.status, f"{replica.cluster}/{replica.name}: {failure}")
                        answer.headers["x-routed-to"] = f"{replica.cluster}/{replica.node}/{replica.name}"
                        return answer
        finally:
            self._metrics.count(model, cluster, code, (now_ns() - start_ns) / NS_PER_S)

    def _choose(self, model: str, tried: list[Replica]) -> tuple[Replica | None, str]:
        """A replica of the model; else one of its fallback, and that one's name."""
        replica, fallback = self.routes.choose(model, tried), self._fallback(model)
        if replica is None and fallback:
            return self.routes.choose(fallback, tried), fallback
        return replica, ""

    def _fallback(self, model: str) -> str:
        return self.routes.fallback(model) if self._switches.fallback else ""

    async def _attempt(
        self, request: web.Request, replica: Replica, body: bytes, instead: str
    ) -> tuple[web.StreamResponse, str]:
        """The answer and the code to count; ``_Failed`` when the replica failed before its first byte.

        ``instead``: the fallback that is asked in place of the model that the body names; "" = none."""
        replica.in_flight += 1
        body = _with_model(body, instead) if instead else body
        try:
            headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
            async with self._session.post(replica.url + request.path, data=body, headers=headers) as upstream:
                if "x-draining" in upstream.headers:
                    replica.draining = True
                passed = CIMultiDict(
                    (name, upstream.headers[name]) for name in _ANSWER_HEADERS if name in upstream.headers
                )
                if instead:
                    passed["x-fallback"] = instead
                if upstream.content_type == "text/event-stream":
                    return await self._stream(request, replica, upstream, passed)
                payload = await upstream.read()
            return web.Response(body=payload, status=upstream.status, headers=passed), str(upstream.status)
        except aiohttp.ConnectionTimeoutError as error:
            self.routes.eject(replica)
            raise _Failed(504, f"no connection within {self._switches.connect_timeout_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            self.routes.eject(replica)
            raise _Failed(502, f"cannot connect: {error.strerror}") from error
        except TimeoutError as error:
            self.routes.failed(replica)
            raise _Failed(504, f"no answer within {self._switches.read_timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            self._watching.check_soon(replica)
            raise _Failed(502, f"connection lost: {type(error).__name__}") from error
        finally:
            replica.in_flight -= 1

    async def _stream(
        self, request: web.Request, replica: Replica, upstream: aiohttp.ClientResponse, headers: CIMultiDict[str]
    ) -> tuple[web.StreamResponse, str]:
        response = web.StreamResponse(status=upstream.status, headers=headers)
        response.enable_chunked_encoding()
        try:
            await _to_client(response.prepare(request))
            while True:  # what comes last leaves with the mark of the end: a send wakes everybody on its way
                chunk = await upstream.content.readany()
                if upstream.content.at_eof():
                    await _to_client(response.write_eof(chunk))
                    return response, str(upstream.status)
                await _to_client(response.write(chunk))
        except _ClientLeft:
            return response, "499"
        except (aiohttp.ClientError, TimeoutError):
            self._watching.check_soon(replica)
            if request.transport is not None:
                request.transport.close()  # no final chunk: the client sees that the answer was cut
            return response, "cut"

    async def drain(self, request: web.Request) -> web.Response:
        """``POST /drain``: see the module docstring."""
        asked = msgspec.json.decode(await request.read(), type=dict[str, str])
        replica = self.routes.get(asked.get("cluster", ""), asked.get("replica", ""))
        if replica is None:
            return web.json_response({"drained": True, "in_flight": 0})
        replica.draining = True
        deadline_ns = now_ns() + round(DRAIN_S * NS_PER_S)
        while replica.in_flight and now_ns() < deadline_ns:
            await asyncio.sleep(0.005)
        return web.json_response({"drained": replica.in_flight == 0, "in_flight": replica.in_flight})

    async def state(self, _: web.Request) -> web.Response:
        """``GET /state``: what the gateway believes."""
        replicas = [
            {
                "cluster": replica.cluster,
                "replica": replica.name,
                "model": replica.model,
                "node": replica.node,
                "url": replica.url,
                "routable": replica.routable,
                "weight": self.routes.weight(replica),
                "ejected": replica.ejected,
                "draining": replica.draining,
                "in_flight": replica.in_flight,
            }
            for replica in self.routes.replicas
        ]
        return web.json_response(
            {"replicas": replicas, "clusters": self._watching.connected, "shares": self.routes.shares}
        )

    async def share(self, request: web.Request) -> web.Response:
        """``POST /share?cluster=NAME&share=0.5``: the part of the traffic it could take that a cluster is given."""
        cluster = request.query.get("cluster", "")
        try:
            share = float(request.query.get("share", ""))
        except ValueError:
            share = -1.0
        if cluster not in dict(self._config.clusters) or not 0.0 <= share <= 1.0:
            error = f"cluster={cluster!r} must be one of the gateway's, share from 0 to 1"
            return web.json_response({"error": error}, status=400)
        self.routes.shares[cluster] = share
        return web.json_response({"cluster": cluster, "share": share})

    async def models(self, _: web.Request) -> web.Response:
        """``GET /v1/models``."""
        data = [{"id": name, "object": "model"} for name in self.routes.models]
        return web.json_response({"object": "list", "data": data})


class _ClientLeft(Exception):
    """The client closed its connection while we wrote to it."""


async def _to_client(writing: Awaitable[object]) -> None:
    try:
        await writing
    except ConnectionError as error:  # the client's connection, not the replica's
        raise _ClientLeft from error


def _with_model(body: bytes, model: str) -> bytes:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({**fields, "model": model})


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"error": {"message": reason, "code": status}}, status=status)


def build(config: GatewayConfig, log: logging.Logger | None = None) -> tuple[web.Application, Gateway]:
    """The gateway as an application with a registry of its own, and the object behind it."""
    registry = CollectorRegistry()
    gateway = Gateway(config, registry, log or logging.Logger("gateway"))
    routes = [
        *(web.post(path, gateway.forward) for path in PATHS),
        web.get("/v1/models", gateway.models),
        web.post("/drain", gateway.drain),
        web.post("/share", gateway.share),
        web.get("/state", gateway.state),
    ]
    return application(config.token, registry, routes, public=PATHS, lifetime=gateway.lifetime), gateway


def run(config: GatewayConfig) -> None:
    """Serves until SIGTERM."""
    log = process_log("gateway", config.log_dir)
    app, _ = build(config, log)
    serve(app, config.host, config.port, log=log)


if __name__ == "__main__":
    from fleet.serving.byhand import by_hand

    by_hand(run, GatewayConfig, "Run the gateway in front of one or more clusters.")
