"""The adapter of one kind cluster: the cluster API of the reference system on one side, Kubernetes on the other.

A process outside the cluster, forked by ``host``. Gateway and allocator speak with it as with any control plane of
theirs; it makes Deployments, follows their pods, and keeps the GPUs on the nodes. While Kubernetes does not answer, it
does not either (503, streams end), so that nobody takes its memory for the cluster. It never chooses a node.

    GET /readyz (200: API ready, nodes ready with their GPUs, agents answer)  /nodes /replicas /events /targets /metrics
    PUT /replicas/{name} {"model", "node"?}    DELETE /replicas/{name}    POST /replicas/{name}/state {"phase", …}
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from fleet.environments.kind import containers, manifests
from fleet.environments.kind.containers import FULL_SHARES, PLANE_SHARES
from fleet.environments.kind.kubernetes.client import Api, Refused, require_open
from fleet.environments.kind.kubernetes.gpus import NodeNow, reconcile
from fleet.environments.kind.kubernetes.pods import READY, Pod
from fleet.environments.kind.kubernetes.view import Replicas, Row
from fleet.environments.kind.kubernetes.watch import PodWatch, Sight
from fleet.environments.kind.topology import AGENT_PORT, API_PORT, ClusterTopology
from fleet.environments.local.control import PHASES, State, wish_of
from fleet.serving.config import ServerConfig
from fleet.serving.events import EventLog
from fleet.serving.process import process_log
from fleet.serving.serve import application, serve
from fleet.spec import ModelSpec
from history.errors import FleetError
from history.op import REPLICA_FAILED, REPLICA_WEIGHTS

CALM_S: Final = 3.0
"""Between two looks at the nodes while all is well; ``BUSY_S`` while something is missing."""
BUSY_S: Final = 0.4
ASK_S: Final = 1.0
"""API server and agents are asked over and over, each for so long at most: one that only hangs is seen after that."""
ASK_EVERY_S: Final = 0.5
AGAIN_S: Final = 0.25
"""Who has just been silent is asked again so soon: one late answer must not look like an outage, which an allocator
takes three silent looks for."""
SETTLE_S: Final = 30.0
"""A cluster whose nodes stay whole so long gets its full CPU weight also when its replicas do not come back."""
FIRST_PORT: Final = 20000
API: Final = "api"


@dataclass(frozen=True)
class AdapterConfig:
    """A cluster as its adapter is told of it. ``addresses``: container -> address."""

    topology: ClusterTopology
    host: str
    port: int
    kubeconfig: Path
    addresses: Mapping[str, str]
    models: tuple[ModelSpec, ...]
    image: str
    logs: Path
    token: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.host}:{self.port}"

    @property
    def api_address(self) -> str:
        """Where the API server is."""
        return self.addresses[self.topology.control_plane]


class Adapter:
    """See the module docstring. Handlers run in the event loop; the watch and the reconciler are threads."""

    def __init__(self, config: AdapterConfig, log: logging.Logger) -> None:
        self._config = config
        self._models = {model.name: model for model in config.models}
        self._log = log
        self._replicas = Replicas(config.topology.name)
        self._nodes: tuple[NodeNow, ...] = ()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._session: aiohttp.ClientSession
        self._early: list[tuple[str, State]] = []
        self._threads: list[threading.Thread] = []
        self._api_now: Api | None = None
        self._boots: Mapping[str, float] = {}
        self._changed = threading.Event()
        self._loaded, self._serves = frozenset[str](), False
        self._lifted: dict[str, tuple[float, int]] = {}
        self._silent = {API, *(machine.name for machine in config.topology.machines)}
        self._ports = FIRST_PORT
        self.events: EventLog | None = None
        self.registry = CollectorRegistry()
        self._metrics()

    # -- life -------------------------------------------------------------------------------------------------------

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Starts the threads; ends them at shutdown."""
        self._loop = asyncio.get_running_loop()
        limits = aiohttp.ClientTimeout(total=ASK_S)
        async with aiohttp.ClientSession(timeout=limits) as self._session:
            watch = PodWatch(self._sight)
            for work in (partial(watch.run, self, self._stop), self._keep_gpus):
                thread = threading.Thread(target=partial(self._or_end, work), daemon=True)
                thread.start()
                self._threads.append(thread)
            asked = {API: f"https://{self._config.api_address}:{API_PORT}/readyz"}
            asked |= {m.name: f"{self._agent_url(m.container)}/healthz" for m in self._config.topology.machines}
            asking = [asyncio.create_task(self._keep_asking(name, url)) for name, url in asked.items()]
            yield
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            self._stop.set()
            self._changed.set()
            self.end_streams()

    def _or_end(self, work: Callable[[], None]) -> None:
        """An adapter that lost one of its threads would be silent for ever: it ends, and is seen to have ended."""
        try:
            work()
        except BaseException:
            if self._stop.is_set():
                return
            self._log.exception("a thread ended")
            os.kill(os.getpid(), signal.SIGKILL)

    def end_streams(self) -> None:
        """Everybody who follows sees the end of the stream, as if the cluster had gone."""
        self._loaded, self._serves = frozenset(), False
        if self.events is not None:
            self.events.close()
            self.events = None

    def _api(self) -> Api:
        """Made from the kubeconfig as it is now: a cluster that was made anew has another."""
        return Api(self._config.kubeconfig, self._config.api_address, self._config.topology.name)

    def _sight(self) -> Sight:
        self._api_now = None
        require_open(self._config.api_address, API_PORT)
        api, self._boots = self._api(), containers.boots(containers.of_cluster(self._config.topology.kind_name))
        self._api_now = api
        return Sight(api, self._config.topology.node_names, self._boots)

    def _keep_gpus(self) -> None:
        """Looks at the nodes for ever, and puts on what is missing; a cluster that has come back gets its weight."""
        machines, wait_s, whole_since = self._config.topology.machines, BUSY_S, time.monotonic()
        while not self._stop.is_set():
            if self._changed.wait(wait_s):
                self._changed.clear()
                self._lift(settled=self._serves)  # first: Kubernetes may be slow to answer
            nodes: tuple[NodeNow, ...] = ()
            if (api := self._api_now) is not None:
                with contextlib.suppress(FleetError):
                    nodes = reconcile(api, machines, self._boots)
            if lacking := [f"{node.name}: {', '.join(node.missing)}" for node in nodes if node.missing]:
                self._log.warning("put on again: %s", "; ".join(lacking))
            self._nodes = nodes
            if api is None or (nodes and not self._whole()):
                whole_since = time.monotonic()
            self._lift(settled=self._serves or time.monotonic() - whole_since > SETTLE_S)
            wait_s = CALM_S if self._whole() and not self._due(self._boots, settled=True) else BUSY_S

    def _whole(self) -> bool:
        return len(self._able()) == len(self._config.topology.machines)

    def _due(self, boots: Mapping[str, float], *, settled: bool) -> dict[str, int]:
        """Container -> CPU weight that it has not got yet in the life that ``boots`` tells of: it booted with little. A
        node has its own once a replica on it has its weights, for that takes traffic next, whatever its siblings still
        have to do; the others once all nodes are whole and ``settled``. A control plane that is no node waits for the
        nodes alone."""
        plan, given = self._config.topology, self._lifted
        if self.events is None:
            return {}
        wanted = {one.container: FULL_SHARES for one in plan.machines if one.name in self._loaded}
        if self._whole():
            wanted |= dict.fromkeys(plan.containers if settled else (), FULL_SHARES)
            wanted |= {} if plan.combined else {plan.control_plane: PLANE_SHARES}
        return {name: it for name, it in wanted.items() if given.get(name, (0.0, 0)) < (boots.get(name, 0.0), it)}

    def _lift(self, *, settled: bool) -> None:
        """Gives the containers their weight. ``settled``: all replicas are ready, or had ``SETTLE_S`` to become so."""
        boots = self._boots
        if not (due := self._due(boots, settled=settled)):
            return
        with contextlib.suppress(FleetError):  # one that is gone just now comes back light
            found = containers.of_cluster(self._config.topology.kind_name)
            for shares in sorted(set(due.values())):
                light = [
                    one.name for one in found if due.get(one.name) == shares and (one.shares or FULL_SHARES) < shares
                ]
                if light:
                    containers.weigh(light, shares)
                    self._log.info("CPU weight %d: %s", shares, ", ".join(light))
            self._lifted |= {name: (boots.get(name, 0.0), shares) for name, shares in due.items()}

    # -- what the watch tells (from its thread) ---------------------------------------------------------------------

    def listed(self, pods: tuple[Pod, ...], boots: Mapping[str, float], heard_ns: int, gap_ns: int | None) -> None:
        """See ``watch.Taker``: a new stream of events begins with what there is."""
        self._loop.call_soon_threadsafe(self._listed, pods, heard_ns)

    def seen(self, pod: Pod, deleted: bool, heard_ns: int) -> None:
        """See ``watch.Taker``."""
        self._loop.call_soon_threadsafe(self._seen, pod, deleted, heard_ns)

    def lost(self) -> None:
        """See ``watch.Taker``."""
        self._log.warning("Kubernetes does not answer")
        self._nodes, self._api_now = (), None
        self._changed.set()  # its nodes are looked at as soon as it answers again
        self._loop.call_soon_threadsafe(self.end_streams)

    def _listed(self, pods: tuple[Pod, ...], heard_ns: int) -> None:
        self._log.info("watching %d pods", len(pods))
        self.end_streams()
        self.events = EventLog()
        for event in self._replicas.listed(pods):
            self.events.append(**event, t_emitted=heard_ns)
        self._count()
        early, self._early = self._early, []
        for name, state in early:
            self._take(name, state)

    def _seen(self, pod: Pod, deleted: bool, heard_ns: int) -> None:
        for event in self._replicas.seen(pod, deleted):
            if self.events is not None:
                self.events.append(**event, t_emitted=heard_ns)
        self._count()

    def _count(self) -> None:
        rows = self._replicas.rows()  # none: a cluster that was made anew, before anything was asked of it
        self._serves = bool(rows) and all(row.phase == READY for row in rows)
        self._has_weights(*(row.node for row in rows if row.phase == READY))

    def _has_weights(self, *nodes: str) -> None:
        self._loaded |= set(nodes)
        if self._due(self._boots, settled=self._serves):
            self._changed.set()

    # -- the cluster API --------------------------------------------------------------------------------------------

    async def readyz(self, _: web.Request) -> web.Response:
        """As API server, nodes and agents were seen last; it waits for nobody, so that slow is not taken for silent."""
        wanted = [machine.name for machine in self._config.topology.machines]
        lacking = [name for name in wanted if name not in self._able()]
        if self.events is None or lacking or API in self._silent:
            return web.json_response({"ready": False, "missing": lacking or [API]}, status=503)
        silent = [name for name in wanted if name in self._silent]
        return web.json_response({"ready": not silent, "missing": silent}, status=503 if silent else 200)

    async def nodes(self, _: web.Request) -> web.Response:
        """All nodes with their GPUs."""
        able = self._able()
        rows = [
            {
                "name": machine.name,
                "gpus": machine.gpus if machine.name in able else 0,
                "free": machine.gpus - self._replicas.held(machine.name) if machine.name in able else 0,
                "ready": machine.name in able,
                "agent_url": self._agent_url(machine.container),
            }
            for machine in self._config.topology.machines
        ]
        return web.json_response({"nodes": rows})

    async def replicas(self, _: web.Request) -> web.Response:
        """All replicas but those that are ending."""
        return web.json_response({"replicas": [msgspec.to_builtins(row) for row in self._replicas.rows()]})

    async def put(self, request: web.Request) -> web.Response:
        """Wants a replica: a Deployment; the same wish again changes nothing."""
        name = request.match_info["name"]
        wish, model = await wish_of(request, self._models)
        return await asyncio.shield(asyncio.create_task(self._want(name, wish.node, model)))  # whoever still waits

    async def _want(self, name: str, node: str, model: ModelSpec) -> web.Response:
        config, plan = self._server(name, model), self._config.topology
        hint = node if node in {m.name for m in plan.machines} else ""
        cpu = manifests.replica_cpu(os.cpu_count() or 1, max(machine.gpus for machine in plan.machines))
        body = manifests.deployment(self._config.image, config, plan.node_names, cpu, hint)
        await self._told(partial(self._alive().create, manifests.DEPLOYMENTS, body))
        row = self._replicas.wanted(Row(name, model.name, model.gpus, hint=hint))
        return web.json_response(msgspec.to_builtins(row))

    async def delete(self, request: web.Request) -> web.Response:
        """Ends a replica: gone for callers once Kubernetes has taken the wish; its GPUs are free when its pod ended."""
        name = request.match_info["name"]
        path = f"{manifests.DEPLOYMENTS}/{name}"
        deleted = await self._told(partial(self._alive().delete, path, propagationPolicy="Background"))
        known, log = self._replicas.leave(name), self.events
        if log is not None and known is not None:
            log.append(**known)
        return web.json_response({"deleted": deleted})

    async def state(self, request: web.Request) -> web.Response:
        """What a model server says of itself: how far its weights are. Whether it is ready, Kubernetes says."""
        try:
            state = msgspec.json.decode(await request.read(), type=State)
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        if self.events is None:
            self._early.append((request.match_info["name"], state))
        else:
            self._take(request.match_info["name"], state)
        return web.json_response({})

    def _take(self, name: str, state: State) -> None:
        kind = REPLICA_WEIGHTS if state.phase == "Loading" and state.weights else ""
        if state.phase == "Failed":
            kind = REPLICA_FAILED
        row = self._replicas.told(name, state.phase, state.reason)
        if kind == REPLICA_WEIGHTS and row is not None:
            self._has_weights(row.node)
        if kind and row is not None and self.events is not None:
            self.events.append(
                kind,
                t_emitted=state.t_emitted or None,
                model=row.model,
                cluster=self._config.topology.name,
                node=row.node,
                replica=name,
                weights=state.weights,
                detail={"bytes": state.bytes, "seconds": state.seconds}
                | ({"reason": state.reason, "final": False} if state.reason else {}),
            )

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """``GET /events`` while Kubernetes answers."""
        if self.events is None:
            return web.json_response({"error": "Kubernetes does not answer"}, status=503)
        return await self.events.handler(request)

    async def targets(self, _: web.Request) -> web.Response:
        """Agents and model servers, for Prometheus (http_sd)."""
        name = self._config.topology.name
        found = [(self._agent_url(m.container), m.name, "agent") for m in self._config.topology.machines]
        found += [(row.url, row.node, "model-server") for row in self._replicas.rows() if row.url]
        return web.json_response(
            [
                {
                    "targets": [url.removeprefix("http://")],
                    "labels": {"cluster": name, "node": node, "service": service},
                }
                for url, node, service in found
            ]
        )

    async def _told(self, wish: Callable[[], bool]) -> bool:
        """What Kubernetes made of a wish; ``_Unheard`` when nobody knows whether it was taken."""
        try:
            return await asyncio.to_thread(wish)
        except FleetError as error:
            if isinstance(error, Refused) and error.status < 500:
                raise
            raise _Unheard(error.message, hint=error.hint) from error

    # -- inside -----------------------------------------------------------------------------------------------------

    def _alive(self) -> Api:
        if self._api_now is None or self.events is None:
            raise FleetError("Kubernetes does not answer", hint="is the cluster up?")
        return self._api_now

    def _able(self) -> set[str]:
        return {node.name for node in self._nodes if node.ready and not node.missing}

    def _agent_url(self, container: str) -> str:
        return f"http://{self._config.addresses[container]}:{AGENT_PORT}"

    async def _keep_asking(self, name: str, url: str) -> None:
        while True:
            if await self._answers(url):
                self._silent.discard(name)
            else:
                self._silent.add(name)
            await asyncio.sleep(AGAIN_S if name in self._silent else ASK_EVERY_S)

    async def _answers(self, url: str) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._session.get(url, ssl=False) as response:
                return response.status == 200
        return False

    def _server(self, name: str, model: ModelSpec) -> ServerConfig:
        self._ports = self._ports + 1 if self._ports < FIRST_PORT + 9999 else FIRST_PORT
        while self._ports in self._replicas.ports():
            self._ports += 1
        return ServerConfig(
            cluster=self._config.topology.name,
            node="",
            replica=name,
            model=model,
            host="",
            port=self._ports,
            agent_url="",
            control_url=self._config.url,
        )

    def _metrics(self) -> None:
        cluster = self._config.topology.name
        total = Gauge("cluster_gpus_total", "GPUs of a node.", ["cluster", "node"], registry=self.registry)
        taken = Gauge("cluster_gpus_allocated", "GPUs held by replicas.", ["cluster", "node"], registry=self.registry)
        count = Gauge("cluster_replicas", "Replicas by phase.", ["cluster", "phase"], registry=self.registry)
        for machine in self._config.topology.machines:
            total.labels(cluster, machine.name).set(machine.gpus)
            taken.labels(cluster, machine.name).set_function(partial(self._replicas.held, machine.name))
        for phase in PHASES:
            count.labels(cluster, phase).set_function(partial(self._replicas.count, phase))


class _Unheard(FleetError):
    """Kubernetes did not answer a wish: it may have taken it, or may do so yet."""


@web.middleware
async def while_it_answers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What Kubernetes refuses is 503 with its words, as long as it is away too; what it may have taken is 504."""
    try:
        return await handler(request)
    except _Unheard as error:
        return web.json_response({"error": error.message}, status=504)
    except FleetError as error:
        return web.json_response({"error": error.message}, status=503)


def build(adapter: Adapter, token: str) -> web.Application:
    """The application."""

    def only_connected(handler: Callable[[web.Request], Awaitable[web.Response]]) -> Any:
        async def guarded(request: web.Request) -> web.Response:
            if adapter.events is None:
                return web.json_response({"error": "Kubernetes does not answer"}, status=503)
            return await handler(request)

        return guarded

    routes = [
        web.get("/readyz", adapter.readyz),
        web.get("/nodes", only_connected(adapter.nodes)),
        web.get("/replicas", only_connected(adapter.replicas)),
        web.put("/replicas/{name}", adapter.put),
        web.delete("/replicas/{name}", adapter.delete),
        web.post("/replicas/{name}/state", adapter.state),
        web.get("/targets", adapter.targets),
        web.get("/events", adapter.follow),
    ]

    @web.middleware
    async def no_metrics_of_the_dead(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Prometheus must not go on drawing GPUs of a cluster that is gone."""
        if request.path == "/metrics" and adapter.events is None:
            return web.json_response({"error": "Kubernetes does not answer"}, status=503)
        return await handler(request)

    app = application(token, adapter.registry, routes, lifetime=adapter.lifetime)
    app.middlewares.extend((no_metrics_of_the_dead, while_it_answers))
    return app


def run(config: AdapterConfig) -> None:
    """Serves until SIGTERM."""
    log = process_log(f"adapter-{config.topology.name}", config.logs)
    serve(build(Adapter(config, log), config.token), config.host, config.port, log=log)
