"""The allocator: places models on GPUs across clusters and moves them when a cluster is lost. One process, outside all.

It polls the clusters' control planes and asks them for replicas; it reports what it held and decided as events. What
it decides is in ``controller`` (state) and ``placement`` (arithmetic); it never serves, routes or measures a request.

    GET /events   detected, decided, unplaceable, returned, failback      GET /state, /healthz, /metrics
    POST /hold?cluster=NAME&held=1    while held, a lost cluster is not taken for returned
    POST /decide  the operators' decision where reaction is manual: moves what is lost, answers {"decided": [models]}
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fleet.serving.clients import ClusterClient, GatewayClient
from fleet.serving.config import AllocatorConfig
from fleet.serving.controller import Controller
from fleet.serving.events import EventLog
from fleet.serving.process import process_log, token_headers
from fleet.serving.serve import application, serve


class AllocatorApi(Collector):
    """HTTP and metrics over a controller, which is made once the application's loop runs."""

    controller: Controller

    def __init__(self, config: AllocatorConfig, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self.events = EventLog()

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the client session (a new connection each call, so that a poll tells the truth) and starts."""
        config = self._config
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, headers=token_headers(config.token)) as session:
            clusters = [ClusterClient(name, url, session, config.switches.checks) for name, url in config.clusters]
            gateway = GatewayClient(config.gateway_url, session)
            self.controller = Controller(config, clusters, gateway, self.events, self._log)
            self.controller.start()
            yield
            await self.controller.close()

    async def state(self, _: web.Request) -> web.Response:
        """``GET /state``: ``placed`` (the first placement is done), clusters, slots, unplaceable, N-1 headroom."""
        controller = self.controller
        slots: list[dict[str, Any]] = [
            {
                "slot": slot.name,
                "model": slot.model,
                "cluster": at.cluster if at else "",
                "replica": at.replica if at else "",
            }
            for slot, at in controller.at.items()
        ]
        return web.json_response(
            {
                "placed": controller.placed,
                "clusters": controller.state,
                "slots": slots,
                "unplaceable": {slot.name: reason for slot, reason in controller.unplaceable.items()},
                "unplaceable_without": await controller.headroom(),
            }
        )

    async def decide(self, _: web.Request) -> web.Response:
        """``POST /decide``."""
        return web.json_response({"decided": await self.controller.decide()})

    async def hold(self, request: web.Request) -> web.Response:
        """``POST /hold?cluster=NAME&held=1``: people work on that cluster; 400 for one that there is not."""
        cluster, held = request.query.get("cluster", ""), request.query.get("held", "1") == "1"
        controller = self.controller
        if cluster not in controller.state:
            return web.json_response({"error": f"no cluster {cluster!r}"}, status=400)
        (controller.held.add if held else controller.held.discard)(cluster)
        return web.json_response({"held": sorted(controller.held)})

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Clusters up, slots placed and not, events by kind, at the moment of a scrape."""
        up = GaugeMetricFamily("allocator_cluster_up", "1 = the cluster answers.", labels=["cluster"])
        slots = GaugeMetricFamily("allocator_replicas", "Replicas that ought to exist.", labels=["state"])
        events = CounterMetricFamily("allocator_events", "Events.", labels=["kind"])
        for kind, count in Counter(event.kind for event in self.events.events).items():
            events.add_metric([kind], count)
        for cluster, state in self.controller.state.items():
            up.add_metric([cluster], state == "up")
        placed = sum(at is not None for at in self.controller.at.values())
        slots.add_metric(["placed"], placed)
        slots.add_metric(["unplaced"], len(self.controller.at) - placed)
        return (up, slots, events)


def build(config: AllocatorConfig, log: logging.Logger | None = None) -> tuple[web.Application, AllocatorApi]:
    """The allocator as an application with a registry of its own, and the object behind it."""
    registry = CollectorRegistry()
    api = AllocatorApi(config, log or logging.Logger("allocator"))
    registry.register(api)
    routes = [web.get("/state", api.state), web.post("/decide", api.decide), web.post("/hold", api.hold)]
    return application(config.token, registry, routes, events=api.events, lifetime=api.lifetime), api


def run(config: AllocatorConfig) -> None:
    """Serves until SIGTERM."""
    log = process_log("allocator", config.log_dir)
    app, _ = build(config, log)
    serve(app, config.host, config.port, log=log)


if __name__ == "__main__":
    from fleet.serving.byhand import by_hand

    by_hand(run, AllocatorConfig, "Run the allocator over one or more clusters.")
