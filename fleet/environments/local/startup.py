"""``StartUp``: the order in which a local fleet comes up, and what is said when a part of it does not.

Stores, clusters and the gateway at once, then the allocator, then it waits until every replica of every model is
ready and routed. Used once by ``LocalFleet.start``. It changes nothing after that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from fleet.environments.local.ask import ask, at_once
from fleet.environments.local.layout import Layout
from fleet.environments.local.processes import tail
from fleet.environments.local.zygote import Start
from fleet.protocols import Say
from fleet.spec import FleetSpec
from history.errors import FleetError

if TYPE_CHECKING:
    from fleet.environments.local.fleet import LocalFleet

SERVICE_START_S: Final = 10.0
_POLL_S: Final = 0.03
_LOAD_MARGIN_S: Final = 20.0
"""How long replicas may take beyond the bare transfer of their weights."""


class StartUp:
    """See the module docstring."""

    def __init__(self, fleet: LocalFleet, spec: FleetSpec, say: Say) -> None:
        self._fleet = fleet
        self._spec = spec
        self._say = say
        self._layout = fleet.layout

    def run(self) -> None:
        """Returns when the fleet serves; ``FleetError`` that quotes the culprit's log otherwise."""
        requests = outside_services(self._layout)
        allocator = requests.pop("allocator")
        for request in requests.values():
            self._fleet.ask_zygote(request)
        for cluster in self._fleet.clusters:
            cluster.power_on()
        self._await_answers(f"{len(requests)} services outside", outside_urls(self._layout, without="allocator"))
        urls = {name: f"{config.url}/readyz" for name, config in self._layout.clusters.items()}
        self._await_answers(f"clusters {', '.join(urls)}", urls)
        self._fleet.ask_zygote(allocator)
        self._await_answers("allocator", {"allocator": f"{self._layout.allocator_url}/healthz"})
        self._await_replicas()

    def _await_answers(self, what: str, urls: Mapping[str, str]) -> None:
        names = list(urls)
        silent: list[str] = []

        def all_answer() -> bool:
            answers = at_once(ask, [urls[name] for name in names])
            silent[:] = [name for name, answer in zip(names, answers, strict=True) if not answer.ok]
            if dead := self._fleet.ended():
                raise self._error(dead[0], "ended as it started")
            return not silent

        if not _until(all_answer, SERVICE_START_S):
            raise self._error(silent[0], f"did not answer in {SERVICE_START_S:g} s")
        self._say(f"{what} up")

    def _error(self, name: str, what: str) -> FleetError:
        logs = self._layout.logs
        where = logs / name / "control.out" if name in self._layout.clusters else logs / f"{name}.out"
        return FleetError(
            f"{name} {what}; its log ends with:\n{tail(where)}", hint=f"the whole log is {where}; mend and run again"
        )

    def _await_replicas(self) -> None:
        wanted = sum(model.replicas for model in self._spec.models)
        limit_s = _LOAD_MARGIN_S + 2 * self._transfer_s()
        said = 0.0
        state: dict[str, Any] = {}

        def all_routed() -> bool:
            nonlocal said
            state.update(rows=[row for cluster in self._fleet.clusters for row in cluster.replicas()])
            for row in state["rows"]:
                if row["phase"] == "Failed":
                    raise FleetError(
                        f"replica {row['name']} of model {row['model']} does not start: {row['reason']}",
                        hint=f"its log is {self._log_of(row['name'])}; mend the model server and run again",
                    )
            if dead := self._fleet.ended():
                raise self._error(dead[0], "ended by itself")
            ready = sum(row["phase"] == "Ready" for row in state["rows"])
            if time.monotonic() - said > 1.0:
                said = time.monotonic()
                self._say(f"{ready} of {wanted} replicas ready")
            return ready >= wanted and self._unrouted() == {}

        if not _until(all_routed, limit_s):
            raise FleetError(
                f"after {limit_s:.0f} s not every model is served: {self._missing(state.get('rows', []))}",
                hint=f"see the logs in {self._layout.logs}",
            )
        self._say(f"{wanted} of {wanted} replicas ready, the gateway routes all {len(self._spec.models)} models")

    def _unrouted(self) -> dict[str, int]:
        """Replicas that the gateway does not route yet, by model; empty when it routes all."""
        answer = ask(f"{self._layout.gateway_url}/state")
        rows = answer.body["replicas"] if answer.ok and isinstance(answer.body, dict) else []
        routed = Counter(row["model"] for row in rows if row["routable"])
        return {m.name: m.replicas - routed[m.name] for m in self._spec.models if routed[m.name] < m.replicas}

    def _missing(self, rows: list[dict[str, str]]) -> str:
        odd = [f"{row['name']} is {row['phase']} ({row['reason']})" for row in rows if row["phase"] != "Ready"]
        present = Counter(row["model"] for row in rows)
        for model in self._spec.models:
            if present[model.name] < model.replicas:
                odd.append(f"{model.name} has {present[model.name]} of {model.replicas} replicas")
        unrouted = ", ".join(f"{name} ({count} not routed)" for name, count in self._unrouted().items())
        return "; ".join(odd) or f"the gateway lacks {unrouted}"

    def _log_of(self, replica: str) -> Path:
        found = sorted(self._layout.logs.glob(f"*/server-{replica}.out"))
        return found[0] if found else self._layout.logs

    def _transfer_s(self) -> float:
        slowest = min(store.egress_bytes_s for store in self._spec.stores)
        links = [link.bytes_s for link in self._spec.links]
        return sum(m.weight_bytes * m.replicas for m in self._spec.models) / min([slowest, *links])


def outside_services(layout: Layout) -> dict[str, Start]:
    """What the zygote must fork outside the clusters, by name."""
    configs: dict[str, tuple[str, object]] = {f"store-{config.name}": ("store", config) for config in layout.stores}
    configs["gateway"] = ("gateway", layout.gateway)
    configs["allocator"] = ("allocator", layout.allocator)
    return {
        name: Start(name, f"fleet.serving.{module}", "run", (config,), layout.logs / f"{name}.out")
        for name, (module, config) in configs.items()
    }


def outside_urls(layout: Layout, without: str = "") -> dict[str, str]:
    """The health check of each outside service, by name."""
    urls = {f"store-{store.name}": f"http://{store.host}:{store.port}/healthz" for store in layout.stores}
    urls["gateway"] = f"{layout.gateway_url}/healthz"
    urls["allocator"] = f"{layout.allocator_url}/healthz"
    urls.pop(without, None)
    return urls


def _until(done: Callable[[], bool], limit_s: float) -> bool:
    try:
        return Retrying(
            stop=stop_after_delay(limit_s), wait=wait_fixed(_POLL_S), retry=retry_if_result(lambda result: not result)
        )(done)
    except RetryError:
        return False
