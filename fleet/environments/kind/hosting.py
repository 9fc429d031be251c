"""The processes of a kind fleet outside its clusters, from the outside: started, awaited, asked, ended by pid.

Called by ``lifecycle`` and ``KindFleet``; ``host`` is what it starts. It ends a process only when its start time is the
recorded one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from fleet import prometheus
from fleet.environments.kind import host
from fleet.environments.kind.host import write_services
from fleet.environments.kind.layout import PROMETHEUS, adapters, lay_out, scrape_targets, services
from fleet.environments.kind.state import FleetState, Folder
from fleet.environments.local.addresses import PLAIN
from fleet.environments.local.ask import Answer, ask, at_once
from fleet.environments.local.processes import tail
from fleet.protocols import Say
from history.errors import FleetError

SERVED_S: Final = 120.0
ENDS_S: Final = 5.0
POLL_S: Final = 0.1


def start(state: FleetState, folder: Folder, say: Say) -> None:
    """Starts the host process with everything in it."""
    binary, argv = prometheus.find_binary(), ()
    if binary is not None:
        static, urls = scrape_targets(state, folder)
        argv = prometheus.command(binary, folder.work / PROMETHEUS, PLAIN, state.ports[PROMETHEUS], static, urls)  # type: ignore[assignment]
    else:
        say(prometheus.ABSENT)
    (folder.work / host.EXITS).unlink(missing_ok=True)
    write_services(folder.work, services(state, folder, argv))
    with (folder.logs / "host.out").open("ab") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "fleet.environments.kind.host", str(folder.work)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    folder.change(host_pid=process.pid, host_started=started(process.pid))


def started(pid: int) -> int:
    """When a process began, in the kernel's ticks; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def alive(state: FleetState) -> bool:
    """Is the host process the one that was started, and does it live?"""
    return bool(state.host_pid and state.host_started) and started(state.host_pid) == state.host_started


def stop(folder: Folder) -> None:
    """Ends the host process; the kernel ends its children with it."""
    try:
        state = folder.read()
    except FleetError:
        return
    if state is None or not alive(state):
        return
    try:
        children = psutil.Process(state.host_pid).children()
        os.kill(state.host_pid, signal.SIGTERM)
    except (psutil.NoSuchProcess, ProcessLookupError):  # it ended just now, and its children with it
        return
    deadline = time.monotonic() + ENDS_S
    while alive(state) and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(state.host_pid, os.WNOHANG)
        time.sleep(0.02)
    if alive(state):
        os.kill(state.host_pid, signal.SIGKILL)
    psutil.wait_procs(children, timeout=ENDS_S)


def died(state: FleetState, folder: Folder) -> tuple[str, ...]:
    """Services outside the clusters that ended by themselves; ("host",) when all did."""
    return host.died(folder.work) if alive(state) else ("host",)


@dataclass(frozen=True)
class Served:
    """How far the fleet is: clusters not ready with the reason, rows of replicas, how many the gateway routes; and the
    GPUs that Kubernetes calls allocatable, by node (a node that nobody answers for is not there)."""

    waiting: Mapping[str, str]
    rows: tuple[dict[str, Any], ...]
    routed: Counter[str]
    gpus: Mapping[str, int]

    def of(self, model: str) -> int:
        """Replicas of a model that are ready and routed."""
        ready = [row for row in self.rows if row["model"] == model and row["phase"] == "Ready"]
        return min(self.routed[model], len(ready))

    def count(self, state: FleetState) -> int:
        """Declared replicas that are ready and routed."""
        return sum(min(self.of(model.name), model.replicas) for model in state.spec.models)

    def lacks(self, state: FleetState) -> str:
        """What is missing until every declared replica is ready and routed; "" when nothing is."""
        short = [
            f"{m.name} {self.of(m.name)} of {m.replicas}" for m in state.spec.models if self.of(m.name) < m.replicas
        ]
        odd = [
            f"{row['name']} is {row['phase']} {row['reason']}".strip() for row in self.rows if row["phase"] != "Ready"
        ]
        found = Counter(row["model"] for row in self.rows)
        many = [f"{m.name} {found[m.name]} for {m.replicas}" for m in state.spec.models if found[m.name] > m.replicas]
        return "; ".join([*self.waiting.values(), *short, *many, *odd])


def look(state: FleetState, folder: Folder) -> Served:
    """Asks adapters and gateway, all at once."""
    urls = {config.topology.name: config.url for config in adapters(state, folder)}
    ready = dict(zip(urls, at_once(lambda url: ask(f"{url}/readyz", timeout_s=1.0), list(urls.values())), strict=True))
    listed = at_once(lambda url: ask(f"{url}/replicas", timeout_s=1.0), list(urls.values()))
    nodes = at_once(lambda url: ask(f"{url}/nodes", timeout_s=1.0), list(urls.values()))
    waiting = {name: f"{name} {_complaint(answer)}" for name, answer in ready.items() if not answer.ok}
    rows = [row for answer in listed if answer.ok for row in answer.body["replicas"]]
    gateway = ask(f"{lay_out(state, folder).gateway_url}/state", timeout_s=1.0)
    routed = Counter(row["model"] for row in gateway.body["replicas"] if row["routable"]) if gateway.ok else Counter()
    gpus = {node["name"]: node["gpus"] for answer in nodes if answer.ok for node in answer.body["nodes"]}
    return Served(waiting, tuple(rows), routed, gpus)


def _complaint(answer: Answer) -> str:
    """What a cluster whose adapter does not call it ready waits for."""
    try:
        return f"waits for {', '.join(answer.body['missing'])}"
    except (TypeError, KeyError):
        return f"has no adapter that answers ({answer})"


def await_served(state: FleetState, folder: Folder, say: Say) -> None:
    """Returns when every declared replica is ready and routed; ``FleetError`` that says what is missing."""
    began = said = time.monotonic()
    wanted = sum(model.replicas for model in state.spec.models)
    state = folder.read() or state
    while True:
        if dead := died(state, folder):
            out = folder.logs / f"{dead[0]}.out"
            raise FleetError(f"{dead[0]} ended by itself; its log ends with:\n{tail(out)}", hint=f"the log is {out}")
        served = look(state, folder)
        if not (lacking := served.lacks(state)):
            say(f"{wanted} of {wanted} replicas ready and routed ({time.monotonic() - began:.1f} s)")
            return
        if time.monotonic() - began > SERVED_S:
            raise FleetError(
                f"after {SERVED_S:g} s not every model is served: {lacking}", hint=f"see the logs in {folder.logs}"
            )
        if time.monotonic() - said > 5.0:
            said = time.monotonic()
            clusters = "".join(f"; {complaint}" for complaint in served.waiting.values())
            say(f"{served.count(state)} of {wanted} replicas ready and routed so far ({said - began:.1f} s){clusters}")
        time.sleep(POLL_S)
