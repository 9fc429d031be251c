"""A real Prometheus beside the fleet: how it is found, configured, awaited, and what it is asked after a run.

The environment starts it (outside every cluster); the runner calls ``record`` at the end, which writes each query's
whole answer into the history. Its samples explain and prove weights, caches and GPUs; they never date a recovery.
"""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from tenacity import RetryCallState, Retrying, retry_if_not_result, stop_after_delay, wait_fixed
from urllib3.util.retry import Retry

from fleet.protocols import Emit
from history.clock import NS_PER_S, Anchor, now_ns
from history.errors import UsageError
from history.op import PROMETHEUS, QUERY, Op

ABSENT: Final = (
    "no program 'prometheus' in PATH; install the package prometheus of your distribution "
    "(Debian, Ubuntu: apt-get install prometheus) or the binary of the Prometheus project"
)
STEP_S: Final = 1
TIMEOUT_S: Final = 5
EMPTY: Final = "prometheus-empty"
"""Error of a query that returned no series: the profile and the serving system do not fit."""
FAILED: Final = "prometheus-failed"
"""Error of a query that Prometheus did not answer."""
_READY_S: Final = 5.0
_NO_RETRY: Final = Retry(total=0)


@dataclass(frozen=True)
class Query:
    """One named PromQL query of a profile."""

    name: str
    query: str


def load_profile(name: str = "reference") -> tuple[Query, ...]:
    """The queries of ``fleet/queries/NAME.toml``; ``UsageError`` where there is no such profile."""
    source = files("fleet").joinpath("queries", f"{name}.toml")
    try:
        raw = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"no query profile {name!r}", hint="profiles are the files in fleet/queries") from error
    return tuple(Query(entry["name"], entry["query"]) for entry in raw["queries"])


def find_binary() -> str | None:
    """The path of the ``prometheus`` program; None when there is none in PATH."""
    return shutil.which("prometheus") or shutil.which("prometheus", path=str(Path(sys.executable).parent))


@dataclass(frozen=True)
class ScrapeTarget:
    """An address that is known beforehand, and its labels."""

    address: str
    service: str
    cluster: str = ""
    node: str = ""


def configuration(static: Sequence[ScrapeTarget], target_urls: Sequence[str]) -> dict[str, Any]:
    """The configuration: 1 s scrapes; labels cluster, node, service; a metric's own labels win (``honor_labels``).

    Prometheus takes up to 5 s to hear of a new model server, so nothing that a query needs may come from there only.
    """
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "900ms", "evaluation_interval": "1m"},
        "scrape_configs": [
            {
                "job_name": "fleet",
                "honor_labels": True,
                "static_configs": [
                    {
                        "targets": [target.address],
                        "labels": {"service": target.service, "cluster": target.cluster, "node": target.node},
                    }
                    for target in static
                ],
                "http_sd_configs": [{"url": url, "refresh_interval": "1s"} for url in target_urls],
            }
        ],
    }


def command(
    binary: str, directory: Path, host: str, port: int, static: Sequence[ScrapeTarget], target_urls: Sequence[str]
) -> tuple[str, ...]:
    """Writes the configuration into ``directory`` and returns the command line that starts Prometheus there."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "prometheus.yml"
    config.write_text(json.dumps(configuration(static, target_urls), indent=2))  # JSON is YAML
    return (
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={host}:{port}",
        "--storage.tsdb.retention.time=1d",
        "--query.lookback-delta=3s",  # three missed scrapes: a dead cluster's series end
        "--log.level=warn",
    )


def wait_ready(url: str, limit_s: float = _READY_S) -> bool:
    """Did Prometheus become ready in time?"""

    def ready() -> bool:
        try:
            return requests.get(f"{url}/-/ready", timeout=1).status_code == 200
        except requests.RequestException:
            return False

    again = retry_if_not_result(bool)
    until = Retrying(stop=stop_after_delay(limit_s), wait=wait_fixed(0.05), retry=again, retry_error_callback=_never)
    return until(ready)


def _never(_: RetryCallState) -> bool:
    return False


def record(
    url: str,
    start_ns: int,
    end_ns: int,
    anchor: Anchor,
    emit: Emit,
    queries: Sequence[Query] | None = None,
) -> None:
    """Asks every query of the profile over [start_ns, end_ns] in steps of 1 s and emits one QUERY op each.

    ``detail``: {"name", "query", "series": [{"labels", "t_ns", "values"}]}, times on the run's clock. An empty answer
    is outcome fail, error ``prometheus-empty``; no answer is fail, ``prometheus-failed``. Never raises for either.
    """
    with PrometheusConnect(url=url, retry=_NO_RETRY, timeout=TIMEOUT_S) as client:
        for query in load_profile() if queries is None else queries:
            emit(_ask(client, query, start_ns, end_ns, anchor))


def _ask(client: PrometheusConnect, query: Query, start_ns: int, end_ns: int, anchor: Anchor) -> Op:
    asked_ns = now_ns()
    detail: dict[str, Any] = {"name": query.name, "query": query.query, "series": []}
    error = ""
    try:
        found = client.custom_query_range(
            query.query,
            start_time=_wall(start_ns, anchor),
            end_time=_wall(end_ns, anchor),
            step=str(STEP_S),
            timeout=TIMEOUT_S,
        )
        detail["series"] = [_series(row, anchor) for row in found]
        if not detail["series"]:
            error, detail["reason"] = EMPTY, "the query returned no series: does the profile fit the serving system?"
    except (requests.RequestException, PrometheusApiClientException, ValueError, KeyError) as failure:
        error, detail["reason"] = FAILED, f"{type(failure).__name__}: {failure}"
    return Op(
        source=PROMETHEUS,
        process="prometheus",
        kind=QUERY,
        t_intended=asked_ns,
        t_sent=asked_ns,
        t_done=now_ns(),
        outcome="fail" if error else "ok",
        error=error,
        detail=detail,
    )


def _wall(monotonic_ns: int, anchor: Anchor) -> datetime:
    return datetime.fromtimestamp(anchor.wall_unix_s(monotonic_ns), UTC)


def _series(row: dict[str, Any], anchor: Anchor) -> dict[str, Any]:
    offset_ns = anchor.monotonic_ns - anchor.wall_unix_ns
    return {
        "labels": dict(row["metric"]),
        "t_ns": [round(float(t) * NS_PER_S) + offset_ns for t, _ in row["values"]],
        "values": [float(value) for _, value in row["values"]],
    }
