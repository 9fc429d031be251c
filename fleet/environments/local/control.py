"""The control plane of one local cluster: API, scheduler loop and node-inits. Leads the cluster's process group.

The zygote forks it at power on; it empties the nodes' caches, forks a node-init a node, and serves. The allocator
PUTs and DELETEs replicas, model servers POST their state, everybody else watches. It dies with its cluster and
remembers nothing. It never looks beyond its own nodes.

    GET /readyz (200: every node is registered)   GET /nodes, /replicas, /events, /metrics, /healthz, /targets
    PUT /replicas/{name} {"model", "node"?}       DELETE /replicas/{name}    POST /replicas/{name}/state {"phase", …}
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from fleet.environments.local import node as node_init
from fleet.environments.local.processes import fork
from fleet.environments.local.replicas import Kubelet
from fleet.environments.local.scheduler import NodeState, ReplicaState, Scheduler
from fleet.environments.local.versions import FIRST_VERSION, VersionApi
from fleet.serving.config import AgentConfig
from fleet.serving.events import EventLog
from fleet.serving.process import process_log
from fleet.serving.serve import application, serve
from fleet.spec import ModelSpec
from history.op import REPLICA_CREATED, REPLICA_FAILED, REPLICA_READY, REPLICA_WEIGHTS

PHASES: Final = ("Pending", "Scheduled", "Started", "Loading", "Ready", "Failed")


@dataclass(frozen=True)
class NodeConfig:
    """A node of the cluster: its address, its GPUs and its agent."""

    name: str
    host: str
    gpus: int
    agent: AgentConfig


@dataclass(frozen=True)
class ControlConfig:
    """A cluster as its control plane is told of it. ``logs``: directory of all its processes' logs."""

    cluster: str
    host: str
    port: int
    nodes: tuple[NodeConfig, ...]
    models: tuple[ModelSpec, ...]
    logs: Path
    token: str = field(default="", repr=False)
    provision_node_s: float = 0.0
    """The provider hands out one node after the other, each after this long. A cluster's first life does not wait."""
    version: str = FIRST_VERSION
    ingress: bool = True
    """Off: the addresses that its replicas advertise lead nowhere, whatever its API says of itself."""

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://{self.host}:{self.port}"

    def without_seeds(self) -> ControlConfig:
        """The same with empty caches."""
        nodes = (replace(node, agent=replace(node.agent, seeds=())) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))


class Wish(msgspec.Struct, frozen=True):
    """Body of PUT /replicas/{name}. ``node``: where the caller would have it; taken when it fits there."""

    model: str
    node: str = ""


async def wish_of(request: web.Request, models: Mapping[str, ModelSpec]) -> tuple[Wish, ModelSpec]:
    """What is wished, and its model; raises the answer 400 or 404 when it cannot be."""
    try:
        wish = msgspec.json.decode(await request.read(), type=Wish)
    except msgspec.MsgspecError as error:
        said = {"error": f"PUT {request.path}: {error}"}
        raise web.HTTPBadRequest(text=json.dumps(said), content_type="application/json") from error
    if wish.model not in models:
        said = {"error": f"{wish.model!r} is no model of the fleet ({', '.join(models)})"}
        raise web.HTTPNotFound(text=json.dumps(said), content_type="application/json")
    return wish, models[wish.model]


class State(msgspec.Struct, frozen=True):
    """Body of POST /replicas/{name}/state, from the model server itself."""

    phase: str
    t_emitted: int = 0
    weights: str = ""
    bytes: int = 0
    seconds: float = 0.0
    reason: str = ""


class ControlPlane:
    """The API over the scheduler and the kubelet."""

    def __init__(self, config: ControlConfig, streams: dict[str, socket.socket], log: logging.Logger) -> None:
        self._config = config
        self._models = {model.name: model for model in config.models}
        self.events = EventLog()
        self._scheduler = Scheduler(NodeState(node.name, node.gpus) for node in config.nodes)
        self._kubelet = Kubelet(config, self._scheduler, self.events, streams, log)
        self.registry = CollectorRegistry()
        self._metrics()

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Agents are started before the port is open."""
        await self._kubelet.open()
        yield
        await self._kubelet.close()

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when every node is registered and its agent has answered, else 503 with who is missing."""
        missing = [node.name for node in self._scheduler.nodes.values() if not node.ready]
        return web.json_response({"ready": not missing, "missing": missing}, status=503 if missing else 200)

    async def nodes(self, _: web.Request) -> web.Response:
        """All nodes with their GPUs."""
        agents = {node.name: node.agent for node in self._config.nodes}
        rows = [
            {
                "name": node.name,
                "gpus": node.gpus,
                "free": self._scheduler.free(node.name),
                "ready": node.ready,
                "agent_url": f"http://{agents[node.name].host}:{agents[node.name].port}",
            }
            for node in self._scheduler.nodes.values()
        ]
        return web.json_response({"nodes": rows})

    async def replicas(self, _: web.Request) -> web.Response:
        """All replicas but those that are draining."""
        return web.json_response({"replicas": [_row(r) for r in self._scheduler.replicas.values() if not r.leaving]})

    async def put(self, request: web.Request) -> web.Response:
        """Wants a replica; the same wish again changes nothing (one that failed is tried anew)."""
        name = request.match_info["name"]
        wish, model = await wish_of(request, self._models)
        old = self._scheduler.replicas.get(name)
        if old is not None and (old.leaving or old.model != model.name):
            what = "is draining" if old.leaving else f"serves {old.model}"
            return web.json_response({"error": f"{name} {what}; wait until it is gone"}, status=409)
        if old is None or old.phase == "Failed":
            new = ReplicaState(name, model.name, model.gpus, model.priority, wish=self._known_node(wish.node))
            self._scheduler.replicas[name] = new
            self._event(REPLICA_CREATED, new)
            self._kubelet.schedule()
        return web.json_response(_row(self._scheduler.replicas[name]))

    async def delete(self, request: web.Request) -> web.Response:
        """Ends a replica: it is gone for callers at once and drains; its GPUs are free when it has ended."""
        replica = self._scheduler.replicas.get(request.match_info["name"])
        if replica is not None and not replica.leaving:
            self._kubelet.remove(replica)
        return web.json_response({"deleted": replica is not None})

    async def state(self, request: web.Request) -> web.Response:
        """What a model server says of itself."""
        replica = self._scheduler.replicas.get(request.match_info["name"])
        try:
            state = msgspec.json.decode(await request.read(), type=State)
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        if replica is None or replica.leaving or not replica.holds:
            return web.json_response({"error": "no such replica"}, status=404)
        facts: dict[str, object] = {"bytes": state.bytes, "seconds": state.seconds}
        if state.phase == "Loading":
            if replica.phase == "Started":
                replica.phase = "Loading"
            if state.weights:
                self._event(REPLICA_WEIGHTS, replica, state, facts)
        elif state.phase == "Ready" and replica.phase != "Ready":
            replica.phase, replica.reason = "Ready", ""
            self._event(REPLICA_READY, replica, state, facts | {"url": replica.url})
        elif state.phase == "Failed":
            replica.reason = state.reason
            self._event(REPLICA_FAILED, replica, state, {"reason": state.reason})
            self._kubelet.end_failed(replica)
        return web.json_response({})

    async def targets(self, _: web.Request) -> web.Response:
        """Model servers as they come and go, for Prometheus (http_sd); all other addresses are known beforehand."""
        cluster = self._config.cluster
        found = [
            {
                "targets": [replica.url.removeprefix("http://")],
                "labels": {"cluster": cluster, "node": replica.node, "service": "model-server"},
            }
            for replica in self._scheduler.replicas.values()
            if replica.url
        ]
        return web.json_response(found)

    def _known_node(self, name: str) -> str:
        return name if name in self._scheduler.nodes else ""

    def _event(
        self, kind: str, replica: ReplicaState, state: State | None = None, detail: dict[str, object] | None = None
    ) -> None:
        self.events.append(
            kind,
            t_emitted=state.t_emitted if state is not None and state.t_emitted else None,
            model=replica.model,
            cluster=self._config.cluster,
            node=replica.node,
            replica=replica.name,
            weights=state.weights if state is not None else "",
            detail=detail or {},
        )

    def _metrics(self) -> None:
        scheduler, cluster = self._scheduler, self._config.cluster
        total = Gauge("cluster_gpus_total", "GPUs of a node.", ["cluster", "node"], registry=self.registry)
        taken = Gauge("cluster_gpus_allocated", "GPUs held by replicas.", ["cluster", "node"], registry=self.registry)
        count = Gauge("cluster_replicas", "Replicas by phase.", ["cluster", "phase"], registry=self.registry)
        for node in scheduler.nodes.values():
            total.labels(cluster, node.name).set(node.gpus)
            taken.labels(cluster, node.name).set_function(partial(scheduler.allocated, node.name))
        for phase in PHASES:
            count.labels(cluster, phase).set_function(partial(scheduler.count, phase))


def build(config: ControlConfig, streams: dict[str, socket.socket], log: logging.Logger) -> web.Application:
    """The application; ``streams``: a connected socket to each node-init."""
    plane = ControlPlane(config, streams, log)
    routes = [
        web.get("/readyz", plane.readyz),
        web.get("/nodes", plane.nodes),
        web.get("/replicas", plane.replicas),
        web.put("/replicas/{name}", plane.put),
        web.delete("/replicas/{name}", plane.delete),
        web.post("/replicas/{name}/state", plane.state),
        web.get("/targets", plane.targets),
        *VersionApi(config.version).routes(),
    ]
    return application(config.token, plane.registry, routes, events=plane.events, lifetime=plane.lifetime)


def run(config: ControlConfig) -> None:
    """Empties the caches, forks the node-inits, serves until SIGTERM (or, as planned, until it is killed)."""
    streams: dict[str, socket.socket] = {}
    for spec in config.nodes:
        shutil.rmtree(spec.agent.cache_dir, ignore_errors=True)
        spec.agent.cache_dir.mkdir(parents=True)
        ours, theirs = socket.socketpair()
        log = config.logs / f"node-{spec.name}.out"
        fork(lambda end=theirs: node_init.run(end), log=log, keep=(theirs.fileno(),))  # type: ignore[misc]
        theirs.close()
        streams[spec.name] = ours
    log_of_mine = process_log(f"control-{config.cluster}", config.logs)
    serve(build(config, streams, log_of_mine), config.host, config.port, log=log_of_mine)


def _row(replica: ReplicaState) -> dict[str, object]:
    return {
        "name": replica.name,
        "model": replica.model,
        "gpus": replica.gpus,
        "node": replica.node,
        "phase": replica.phase,
        "reason": replica.reason,
        "url": replica.url,
    }
