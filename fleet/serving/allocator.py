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
import click
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fleet.serving.clients import ClusterClient, GatewayClient
from fleet.serving.config import AllocatedModel, AllocatorConfig
from fleet.serving.controller import Controller
from fleet.serving.events import EventLog
from fleet.serving.gateway import pairs
from fleet.serving.serve import (
    healthz,
    metrics_handler,
    process_log,
    run_by_hand,
    serve,
    token_by_hand,
    token_guard,
    token_headers,
)


class AllocatorApi(Collector):
    """HTTP and metrics over a controller, which is made once the application's loop runs."""

    def __init__(self, config: AllocatorConfig, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self.events = EventLog()
        self.controller: Controller | None = None

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the client session (a new connection each call, so that a poll tells the truth) and starts."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, headers=token_headers(self._config.token)) as session:
            clusters = [ClusterClient(name, url, session, self._config.checks) for name, url in self._config.clusters]
            gateway = GatewayClient(self._config.gateway_url, session)
            self.controller = Controller(self._config, clusters, gateway, self.events, self._log)
            self.controller.start()
            yield
            await self.controller.close()

    async def end_streams(self, _: web.Application) -> None:
        """For the application's shutdown."""
        self.events.close()

    async def state(self, _: web.Request) -> web.Response:
        """``GET /state``: ``placed`` (the first placement is done), clusters, slots, unplaceable, N-1 headroom."""
        controller = self._running()
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
        return web.json_response({"decided": await self._running().react()})

    async def hold(self, request: web.Request) -> web.Response:
        """``POST /hold?cluster=NAME&held=1``: people work on that cluster; 400 for one that there is not."""
        cluster, held = request.query.get("cluster", ""), request.query.get("held", "1") == "1"
        controller = self._running()
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
        if self.controller is not None:
            for cluster, state in self.controller.state.items():
                up.add_metric([cluster], state == "up")
            placed = sum(at is not None for at in self.controller.at.values())
            slots.add_metric(["placed"], placed)
            slots.add_metric(["unplaced"], len(self.controller.at) - placed)
        return (up, slots, events)

    def _running(self) -> Controller:
        assert self.controller is not None, "handlers run within the application's lifetime"
        return self.controller


def build(config: AllocatorConfig, log: logging.Logger | None = None) -> tuple[web.Application, AllocatorApi]:
    """The allocator as an application with a registry of its own, and the object behind it."""
    registry = CollectorRegistry()
    api = AllocatorApi(config, log or logging.Logger("allocator"))
    registry.register(api)
    app = web.Application(middlewares=[token_guard(config.token)])
    app.router.add_get("/events", api.events.handler)
    app.router.add_get("/state", api.state)
    app.router.add_post("/decide", api.decide)
    app.router.add_post("/hold", api.hold)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics_handler(registry))
    app.cleanup_ctx.append(api.lifetime)
    app.on_shutdown.append(api.end_streams)
    return app, api


def run(config: AllocatorConfig) -> None:
    """Serves until SIGTERM."""
    log = process_log("allocator", config.log_dir)
    app, _ = build(config, log)
    serve(app, config.host, config.port, log=log)


def parse_model(text: str) -> AllocatedModel:
    """NAME:GPUS:REPLICAS[:PRIORITY[:HOME,HOME…]] as a model; ``click.BadParameter`` says what is wrong."""
    name, *rest = text.split(":")
    try:
        gpus, replicas = int(rest[0]), int(rest[1])
        priority = int(rest[2]) if len(rest) > 2 else 0
    except (IndexError, ValueError) as error:
        raise click.BadParameter(f"{text!r} is not NAME:GPUS:REPLICAS[:PRIORITY[:HOME,HOME]]") from error
    homes = tuple(rest[3].split(",")) if len(rest) > 3 else ()
    return AllocatedModel(name, gpus, replicas, priority, homes)


def _models(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[AllocatedModel, ...]:
    return tuple(parse_model(value) for value in values)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, required=True)
@click.option("--cluster", "clusters", multiple=True, callback=pairs, help="NAME=CONTROL_PLANE_URL (repeat).")
@click.option("--model", "models", multiple=True, callback=_models, help="NAME:GPUS:REPLICAS[:PRIORITY[:HOME,HOME]].")
@click.option("--reaction", type=click.Choice(["automatic", "manual"]), default="automatic", show_default=True)
@click.option("--detect-interval-s", type=float, default=0.25, show_default=True)
@click.option("--detect-failures", type=int, default=3, show_default=True, help="Failed polls in a row = lost.")
@click.option("--detect-timeout-s", type=float, default=0.5, show_default=True)
@click.option("--failback/--no-failback", default=True, show_default=True)
@click.option("--gateway-url", default="", help="Fail-back waits until this gateway routes to the home replica.")
def main(**options: object) -> None:
    """Run the allocator over one or more clusters."""
    run_by_hand(run, AllocatorConfig(**options, token=token_by_hand()))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
