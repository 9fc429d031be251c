"""The gateway's metrics: requests by model, cluster and answer; the routing table as it is when scraped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from fleet.serving.routing import Routes

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class GatewayMetrics(Collector):
    """Counters of requests, and the routing table at the moment of a scrape."""

    def __init__(self, routes: Routes, registry: CollectorRegistry) -> None:
        self._routes = routes
        self._requests = Counter(
            "gateway_requests", "Requests by answer.", ["model", "cluster", "code"], registry=registry
        )
        self._seconds = Histogram(
            "gateway_request_seconds", "From arrival to the end.", ["model"], buckets=_BUCKETS, registry=registry
        )
        registry.register(self)

    def count(self, model: str, cluster: str, code: str, seconds: float) -> None:
        """One request has ended."""
        self._requests.labels(model, cluster, code).inc()
        self._seconds.labels(model).observe(seconds)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Routable replicas and requests in flight, by model and cluster."""
        ready = GaugeMetricFamily("gateway_ready_replicas", "Replicas that take requests.", labels=["model", "cluster"])
        flying = GaugeMetricFamily("gateway_in_flight", "Requests at replicas now.", labels=["model", "cluster"])
        sums: dict[tuple[str, str], list[int]] = {}
        for replica in self._routes.replicas:
            total = sums.setdefault((replica.model, replica.cluster), [0, 0])
            total[0] += replica.routable
            total[1] += replica.in_flight
        for key, (count, in_flight) in sums.items():
            ready.add_metric(key, count)
            flying.add_metric(key, in_flight)
        return (ready, flying)
