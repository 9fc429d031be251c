"""A model server's metrics: vLLM's names, and our own for loads. One registry a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from fleet.serving.config import ServerConfig
from fleet.serving.loader import Weights

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_LOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)


class ServerMetrics:
    """Children are bound once: a request costs additions only."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        config: ServerConfig,
        *,
        running: Callable[[], float],
        waiting: Callable[[], float],
        gpu_bytes: Callable[[], float],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody asks when a counter began
        self._registry = registry = CollectorRegistry()
        self._config = config
        name = config.model.name
        for metric, text, read in (
            ("vllm:num_requests_running", "Requests in a slot.", running),
            ("vllm:num_requests_waiting", "Requests that wait for weights or a slot.", waiting),
            ("model_gpu_memory_bytes", "Bytes of weights in GPU memory.", gpu_bytes),
        ):
            Gauge(metric, text, ["model_name"], registry=registry).labels(name).set_function(read)

        def seconds(metric: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(metric, text, ["model_name"], buckets=buckets, registry=registry).labels(name)

        self._e2e = seconds("vllm:e2e_request_latency_seconds", "From arrival to the last byte.", _REQUEST_BUCKETS)
        self._first = seconds("vllm:time_to_first_token_seconds", "From arrival to the first token.", _REQUEST_BUCKETS)
        text = "Between tokens of a streamed answer (its mean, once an answer)."
        self._inter = seconds("vllm:inter_token_latency_seconds", text, _TOKEN_BUCKETS)
        success = Counter(
            "vllm:request_success", "Complete answers.", ["model_name", "finished_reason"], registry=registry
        )
        self._finished = {reason: success.labels(name, reason) for reason in ("length", "stop", "abort")}
        self._refused = Counter(
            "model_requests_refused", "429 and 503 answers.", ["model_name", "code"], registry=registry
        )
        self._load = Histogram(
            "model_load_duration_seconds",
            "Weight loads by phase: fetch (agent), deserialize (read and verify), ready (all of it).",
            ["model", "cluster", "source", "phase"],
            buckets=_LOAD_BUCKETS,
            registry=registry,
        )

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus."""
        return generate_latest(self._registry)

    def answered(self, first_s: float, total_s: float, tokens: int, reason: str) -> None:
        """A complete answer: seconds from arrival to first token and to the end."""
        self._first.observe(first_s)
        self._e2e.observe(total_s)
        if tokens > 1:
            self._inter.observe((total_s - first_s) / (tokens - 1))
        self._finished[reason].inc()

    def aborted(self) -> None:
        """The client left before the end."""
        self._finished["abort"].inc()

    def refused(self, code: int) -> None:
        """A request was turned away."""
        self._refused.labels(self._config.model.name, str(code)).inc()

    def loaded(self, weights: Weights, ready_s: float) -> None:
        """Weights reached memory ``ready_s`` after they were first asked for."""
        for phase, seconds in (
            ("fetch", weights.fetch_s),
            ("deserialize", weights.deserialize_s),
            ("ready", ready_s),
        ):
            self._load.labels(weights.model, self._config.cluster, weights.tier, phase).observe(seconds)
