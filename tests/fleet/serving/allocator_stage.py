"""The stage of the allocator's tests: an allocator over three stub clusters, and a stub gateway."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields as fields_of
from typing import Any

from aiohttp import web

from fleet.serving import allocator
from fleet.serving.config import AllocatorConfig
from fleet.serving.events import Event
from fleet.serving.serve import token_guard
from fleet.spec import ModelSpec, Switches

TOKEN = "token-of-this-run"


def model(name: str, gpus: int, replicas: int, priority: int, *homes: str) -> ModelSpec:
    return ModelSpec(name, "chat", "base", 1, gpus, replicas, priority, homes=homes)


MODELS = (
    model("big", 4, 1, 20, "cobalt"),
    model("chat", 1, 3, 100, "amber", "cobalt", "jade"),
    model("code", 2, 1, 80, "cobalt"),
)


class StubGateway:
    """Routes to what it is told to, and records drains."""

    def __init__(self) -> None:
        self.blind = False
        self.clusters: list[Any] = []
        self.drained: list[tuple[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[token_guard(TOKEN)])
        app.router.add_get("/state", self.state)
        app.router.add_post("/drain", self.drain)
        return app

    async def state(self, _: web.Request) -> web.Response:
        rows = [
            {"cluster": c.name, "replica": name, "routable": row["phase"] == "Ready" and not self.blind}
            for c in self.clusters
            for name, row in c.replicas.items()
        ]
        return web.json_response({"replicas": rows})

    async def drain(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.drained.append((body["cluster"], body["replica"]))
        return web.json_response({"drained": True, "in_flight": 0})


class Stage:
    """An allocator over three stub clusters with ``gpus`` on each one's only node."""

    def __init__(self, it: Any, control_plane: Any, gpus: int) -> None:
        self.it = it
        names = ("amber", "cobalt", "jade")
        self.clusters = {name: control_plane(it, name, {f"{name}-n1": gpus}) for name in names}
        self.gateway = StubGateway()
        self.gateway.clusters = list(self.clusters.values())
        self.api: allocator.AllocatorApi
        self.url = ""

    async def start(self, **changes: Any) -> None:
        for cluster in self.clusters.values():
            cluster.gpus_of = {model.name: model.gpus for model in MODELS}
            await cluster.power_on()
        fields: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "clusters": tuple((name, cluster.url) for name, cluster in self.clusters.items()),
            "models": MODELS,
            "gateway_url": await self.it.url(self.gateway.app()),
            "token": TOKEN,
        }
        switches: dict[str, Any] = {"detect_interval_s": 0.03}
        switches |= {key: changes.pop(key) for key in changes.keys() & {field.name for field in fields_of(Switches)}}
        app, self.api = allocator.build(AllocatorConfig(**fields | changes, switches=Switches(**switches)))
        self.url = await self.it.url(app)
        await self.it.until(lambda: self.api.controller.placed)

    def where(self) -> dict[str, list[str]]:
        """model -> clusters of its live replicas, as the clusters themselves list them."""
        found: dict[str, list[str]] = {}
        for cluster in self.clusters.values():
            for row in cluster.replicas.values():
                found.setdefault(row["model"], []).append(cluster.name)
        return {model: sorted(clusters) for model, clusters in found.items()}

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.api.events.events if event.kind == kind]

    async def lose(self, name: str) -> None:
        cluster = self.clusters[name]
        await cluster.power_off()
        cluster.replicas.clear()
        await self.it.until(lambda: any(e.cluster == name for e in self.events("detected")))

    async def settled(self, **counts: int) -> None:
        def is_so() -> bool:
            found = Counter(model for model, clusters in self.where().items() for _ in clusters)
            return all(found[model] == count for model, count in counts.items())

        await self.it.until(is_so)


HOME = {"big": ["cobalt"], "chat": ["amber", "cobalt", "jade"], "code": ["cobalt"]}
