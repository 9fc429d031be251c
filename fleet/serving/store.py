"""The weight store: one object store account with an egress limit, as a process of its own.

Agents ask it for manifests and objects. It sends the bytes that are on its disk, paced by the account's token bucket
and, for other clusters, by that cluster's link; it refuses work beyond its queue and never hides or repairs anything.

    GET /models/{model}                  the manifest
    GET /objects/{sha256}?cluster=NAME   the bytes; 503 {"error": "ServerBusy"} with Retry-After past max_queue
    POST /fault?factor=0.1&corrupt=0     a drill's brown-out or rot, until told otherwise; GET says what is on now
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge

from fleet.serving.bucket import TokenBucket, chunk_bytes, pass_through
from fleet.serving.config import StoreConfig
from fleet.serving.process import process_log
from fleet.serving.serve import application, serve
from fleet.serving.weights import is_sha256, make_weights, manifest_path, object_path
from history.clock import NS_PER_S, now_ns

CLOCK_SPARE_S: Final = 0.02
"""Two processes round their sleeps differently; who comes back this much sooner was not impatient."""

__all__ = ["StoreConfig", "build_app", "make_weights", "run"]


class Store:
    """The state of a store process: its buckets and how many downloads are in progress."""

    def __init__(self, config: StoreConfig, registry: CollectorRegistry) -> None:
        self._config = config
        self._egress = TokenBucket(config.egress_bytes_s)
        self._links: dict[str, TokenBucket] = {}
        self._active = 0
        self._factor, self._corrupt = 1.0, False
        self._not_before_ns: dict[tuple[str, str], int] = {}
        self._sent = Counter("weight_store_sent_bytes", "Bytes of objects sent.", ["store"], registry=registry).labels(
            config.name
        )
        self._requests = Counter(
            "weight_store_requests", "Object requests by answer.", ["store", "code"], registry=registry
        )
        self._requests.labels(config.name, "503")  # a counter that is born at 1 has no growth
        self._impatient = Counter(
            "weight_store_impatient", "Asked again before Retry-After had passed.", ["store"], registry=registry
        ).labels(config.name)
        downloads = Gauge("weight_store_downloads", "Downloads in progress.", ["store"], registry=registry)
        downloads.labels(config.name).set_function(lambda: self._active)

    async def get_model(self, request: web.Request) -> web.Response:
        """The manifest of a model; 404 when there is none."""
        model = request.match_info["model"]
        try:
            data = manifest_path(self._config.root, model).read_bytes()
        except FileNotFoundError:
            return web.json_response({"error": f"no weights for model {model!r}"}, status=404)
        return web.Response(body=data, content_type="application/json")

    async def get_object(self, request: web.Request) -> web.StreamResponse:
        """The bytes of an object through the limits; 404 when there is none, 503 when the queue is full."""
        name = request.match_info["sha256"]
        path = object_path(self._config.root, name)
        if not is_sha256(name) or not path.is_file():
            return self._answer(404, {"error": f"no object {name!r}"})
        asker = (request.query.get("node", ""), name)
        if now_ns() < self._not_before_ns.pop(asker, 0):
            self._impatient.inc()
        if self._active >= self._config.max_queue:
            self._not_before_ns[asker] = now_ns() + round((self._config.retry_after_s - CLOCK_SPARE_S) * NS_PER_S)
            return self._busy()
        self._active += 1
        try:
            return await self._send(request, path)
        finally:
            self._active -= 1

    async def fault(self, request: web.Request) -> web.Response:
        """``POST /fault?factor=F&corrupt=0|1``: egress is F of what was declared; each object has a wrong byte.
        ``GET /fault``: what is on now."""
        if request.method == "POST":
            try:
                factor, corrupt = float(request.query["factor"]), request.query["corrupt"] == "1"
            except (KeyError, ValueError):
                factor, corrupt = 0.0, False
            if not (0 < factor <= 1 and self._config.egress_bytes_s > 0):
                return web.json_response(
                    {"error": "factor must lie in (0, 1], of an egress that is limited"}, status=400
                )
            self._factor, self._corrupt = factor, corrupt
            self._egress.bytes_s = self._config.egress_bytes_s * factor
        rate = self._egress.bytes_s
        return web.json_response({"factor": self._factor, "corrupt": self._corrupt, "egress_bytes_s": rate})

    async def _send(self, request: web.Request, path: Path) -> web.StreamResponse:
        buckets = self._buckets(request.query.get("cluster", ""))
        size = chunk_bytes(min((b.bytes_s for b in buckets if b.bytes_s > 0), default=0))
        with path.open("rb", buffering=0) as file:  # read in the loop: the page cache answers in microseconds
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.content_length = path.stat().st_size
            await response.prepare(request)
            rotten = self._corrupt
            while chunk := file.read(size):
                if rotten:
                    chunk, rotten = bytes((chunk[0] ^ 1,)) + chunk[1:], False
                await pass_through(buckets, len(chunk))
                await response.write(chunk)
                self._sent.inc(len(chunk))
        self._requests.labels(self._config.name, "200").inc()
        return response

    def _buckets(self, cluster: str) -> tuple[TokenBucket, ...]:
        here = self._config.cluster
        if not here or not cluster or cluster == here:
            return (self._egress,)
        link = self._links.setdefault(cluster, TokenBucket(self._config.cross_cluster_bytes_s))
        return (self._egress, link)

    def _busy(self) -> web.Response:
        answer = self._answer(503, {"error": "ServerBusy", "downloads": self._active})
        answer.headers["Retry-After"] = str(math.ceil(self._config.retry_after_s))  # whole seconds, by the standard
        answer.headers["Retry-After-Ms"] = str(round(self._config.retry_after_s * 1000))
        return answer

    def _answer(self, status: int, body: dict[str, object]) -> web.Response:
        self._requests.labels(self._config.name, str(status)).inc()
        return web.json_response(body, status=status)


def build_app(config: StoreConfig) -> web.Application:
    """The store as an application with a registry of its own."""
    registry = CollectorRegistry()
    store = Store(config, registry)
    routes = [
        web.get("/models/{model:.+}", store.get_model),
        web.get("/objects/{sha256}", store.get_object),
        web.get("/fault", store.fault),
        web.post("/fault", store.fault),
    ]
    return application(config.token, registry, routes)


def run(config: StoreConfig) -> None:
    """Serves until SIGTERM."""
    serve(build_app(config), config.host, config.port, log=process_log(f"store-{config.name}", config.log_dir))


if __name__ == "__main__":
    from fleet.serving.byhand import by_hand

    by_hand(run, StoreConfig, "Run a weight store: GET /models/NAME, GET /objects/SHA256?cluster=NAME.")
