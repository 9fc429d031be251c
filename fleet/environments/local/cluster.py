"""``LocalCluster``: one cluster of the local fleet as the harness sees it: describe, reach, watch, kill, freeze.

Implements ``Cluster``, ``PowerControl``, ``RebuildControl`` and ``FreezeControl``. All its processes are one process
group: one signal reaches every one of them. It trusts no signal that it sent: every verification asks the process
table and the network anew. It never places a replica.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import psutil

from fleet.environments.local import black_hole
from fleet.environments.local.ask import Answer, ask, at_once, reachability
from fleet.environments.local.control import ControlConfig, run
from fleet.environments.local.layout import Layout
from fleet.environments.local.restoration import Restoration
from fleet.environments.local.watch import Follower
from fleet.environments.local.zygote import AtEnd, Start
from fleet.environments.local.zygote import Signal as Send
from fleet.protocols import Emit, Reachability
from fleet.spec import ClusterSpec, Switches
from history.errors import FaultError, FleetError
from history.op import OBSERVER
from history.records import ClusterFacts, NodeFacts, Placement, Signal

REFUSED: Final = "refused"
BLACK_HOLE: Final = "black-hole"

VERIFY_TIMEOUT_S: Final = 0.4
"""A live service answers in milliseconds; a frozen or cut-off one is given this long."""

_GONE_S: Final = 5.0
_DEAD: Final = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class Hands(Protocol):
    """What a cluster needs of its fleet: to ask the zygote, and the configuration once it has started."""

    def ask_zygote(self, request: object) -> object:
        """Sends a request to the zygote and returns its reply; ``FleetError`` when it is gone."""
        ...

    def control_config(self, cluster: str) -> ControlConfig | None:
        """The cluster's processes and addresses; None before the fleet has started."""
        ...

    def network(self, cluster: str) -> str:
        """The cluster's own addresses in CIDR notation; "" where it has none."""
        ...

    def switches(self) -> Switches:
        """The fleet's switches."""
        ...

    @property
    def layout(self) -> Layout:
        """Addresses of everything; ``FleetError`` before the fleet has started."""
        ...


class LocalCluster(Restoration):
    """See the module docstring. Usable from any thread."""

    def __init__(self, spec: ClusterSpec, hands: Hands, signatures: tuple[str, ...]) -> None:
        self._spec = spec
        self._hands = hands
        self._signatures = signatures
        self._lock = threading.Lock()
        self._pgid = 0
        self._hole = False
        self._off = True
        self._destroyed = False
        self._layout_of = lambda: hands.layout

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._spec.name

    def opted_in(self) -> str:
        """Always: this program made it, for drills alone, and no traffic but a drill's ever reaches it."""
        return "made by blackstart for this run"

    def describe(self) -> ClusterFacts:
        """Nodes, GPUs and addresses; the addresses are empty before the fleet has started."""
        config = self._hands.control_config(self.name)
        return ClusterFacts(
            name=self.name,
            nodes=tuple(NodeFacts(node.name, node.gpus) for node in self._spec.nodes),
            api_url=f"{config.url}/readyz" if config else "",
            data_urls=tuple(_agent_urls(config).values()) if config else (),
        )

    def reachable(self) -> Reachability:
        """Asks the API and every node, all at once, for at most about 1 s."""
        config = self._config()
        return reachability(f"{config.url}/readyz", _agent_urls(config))

    def placements(self) -> tuple[Placement, ...]:
        """Where replicas are bound now, and whether each is ready; ``FleetError`` when the API does not answer."""
        rows = self.replicas()
        bound = [row for row in rows if row["node"] and row["phase"] not in ("Pending", "Failed")]
        return tuple(
            Placement(row["model"], self.name, row["node"], row["name"], row["phase"] == "Ready") for row in bound
        )

    def replicas(self) -> list[dict[str, str]]:
        """The rows of GET /replicas; ``FleetError`` when the API does not answer."""
        answer = ask(f"{self._config().url}/replicas", timeout_s=1.0)
        if not answer.ok or not isinstance(answer.body, dict):
            raise FleetError(
                f"cluster {self.name}: its API does not answer: {answer}", hint="is it powered off, frozen or starting?"
            )
        rows: list[dict[str, str]] = answer.body["replicas"]
        return rows

    def watch(self, emit: Emit, stop: threading.Event) -> None:
        """Emits observer ops of replicas until ``stop``; a gap while the cluster is dead, then its new life."""
        config = self._config()
        process = f"observer-{self.name}"
        Follower(config.url, source=OBSERVER, process=process, cluster=self.name).run(emit, stop)

    # -- power ------------------------------------------------------------------------------------------------------

    @property
    def signatures(self) -> tuple[str, ...]:
        """``refused`` always; ``black-hole`` where this process may drop packets."""
        return self._signatures

    def power_off(self, signature: str = REFUSED) -> None:
        """One SIGKILL to the whole process group; with ``black-hole`` its addresses fall silent just before."""
        if signature not in self._signatures:
            raise FaultError(
                f"cluster {self.name} cannot lose power with signature {signature!r} here",
                hint=f"possible: {', '.join(self._signatures)}; black-hole needs root and iptables on Linux",
            )
        with self._lock:
            if signature == BLACK_HOLE and not self._hole:
                network = self._hands.network(self.name)
                self._hands.ask_zygote(AtEnd(self.name, black_hole.rules(network, "-D")))
                black_hole.open_hole(network)
                self._hole = True
            self._off = True
            self._hands.ask_zygote(Send(self.name, signal.SIGKILL))

    def verify_power_off(self) -> tuple[Signal, ...]:
        """No live process, the API silent, every node's data address silent; each asked now."""
        config = self._config()
        wanted = ("connect-timeout",) if self._hole else ("refused",)
        alive = self._alive()
        seen = (
            f"{len(alive)} alive in process group {self._pgid}" if alive else f"process group {self._pgid}: none alive"
        )
        return (Signal("processes", not alive, seen), *_signals(config, lambda answer: answer.how in wanted))

    def power_on(self) -> None:
        """Starts the cluster again, empty; nothing to do when it runs."""
        config = self._config()
        with self._lock:
            if self._hole:
                black_hole.close_hole(self._hands.network(self.name))
                self._hole = False
            if not self._off and self._alive():
                return
            self._wait_gone()
            if self._pgid:  # only its first life finds anything in its caches
                config = replace(config.without_seeds(), ingress=self._hands.switches().ingress_restored)
                config = replace(config, version=self.version or config.version)
            if self._destroyed:
                config = replace(config, provision_node_s=self._hands.switches().provision_node_s)
                self._destroyed = False
            start = Start(self.name, run.__module__, run.__name__, (config,), config.logs / "control.out", group=True)
            pid = self._hands.ask_zygote(start)
            if not isinstance(pid, int) or isinstance(pid, bool):
                raise FaultError(f"cluster {self.name} was not started: {pid!r}", hint="see the fleet's logs")
            self._pgid, self._off = pid, False

    def verify_power_on(self) -> tuple[Signal, ...]:
        """API ready, every node answers, GPUs allocatable as declared; each asked now."""
        config = self._config()
        answer = ask(f"{config.url}/nodes", timeout_s=VERIFY_TIMEOUT_S)
        rows = answer.body["nodes"] if answer.ok and isinstance(answer.body, dict) else []
        gpus = {row["name"]: row["gpus"] for row in rows if row["ready"]}
        declared = {node.name: node.gpus for node in self._spec.nodes}
        seen = ", ".join(f"{name} {gpus.get(name, 0)} of {count}" for name, count in declared.items())
        return (*_signals(config, lambda answer: answer.ok), Signal("gpus", gpus == declared, seen))

    # -- rebuild ----------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Power off, and its nodes' disks are gone; ``FaultError`` while it is locked."""
        if self.name in self._hands.switches().locked:
            raise FaultError(
                f"cluster {self.name} is locked against deletion", hint="take it out of the fleet's switches.locked"
            )
        self.power_off(REFUSED)
        self._wait_gone()
        with self._lock:
            self._destroyed = True
            for node in self._config().nodes:
                shutil.rmtree(node.agent.cache_dir, ignore_errors=True)

    def verify_destroyed(self) -> tuple[Signal, ...]:
        """As for power loss, and no disk left."""
        disks = [node.name for node in self._config().nodes if node.agent.cache_dir.exists()]
        return (*self.verify_power_off(), Signal("disks", not disks, f"left: {', '.join(disks) or 'none'}"))

    def rebuild(self) -> None:
        """A new cluster of the same name, its nodes provisioned one after the other; nothing to do when it runs."""
        self.power_on()

    def verify_rebuilt(self) -> tuple[Signal, ...]:
        """Stages in order: its API answers, all its nodes answer, their GPUs are allocatable; each asked now."""
        api = ask(f"{self._config().url}/healthz", timeout_s=VERIFY_TIMEOUT_S)
        _, nodes, gpus = self.verify_power_on()
        return (Signal("api", api.ok, str(api)), nodes, gpus)

    # -- freeze -----------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """SIGSTOP to the whole process group: sockets stay, nobody answers."""
        with self._lock:
            self._hands.ask_zygote(Send(self.name, signal.SIGSTOP))

    def verify_frozen(self) -> tuple[Signal, ...]:
        """Every process stopped; API and nodes take connections and never answer."""
        states = [_status(process) for process in self._alive()]
        stopped = sum(state == psutil.STATUS_STOPPED for state in states)
        processes = Signal("processes", 0 < len(states) == stopped, f"{stopped} of {len(states)} stopped")
        return (processes, *_signals(self._config(), lambda answer: answer.how == "no-answer"))

    def thaw(self) -> None:
        """SIGCONT to the whole process group."""
        with self._lock:
            self._hands.ask_zygote(Send(self.name, signal.SIGCONT))

    def verify_thawed(self) -> tuple[Signal, ...]:
        """No process stopped; API and nodes answer."""
        states = [_status(process) for process in self._alive()]
        stopped = sum(state == psutil.STATUS_STOPPED for state in states)
        processes = Signal("processes", bool(states) and not stopped, f"{stopped} of {len(states)} stopped")
        return (processes, *_signals(self._config(), lambda answer: answer.ok))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _config(self) -> ControlConfig:
        config = self._hands.control_config(self.name)
        if config is None:
            raise FleetError(f"cluster {self.name} has not been started", hint="start the fleet first")
        return config

    def _alive(self) -> list[psutil.Process]:
        """The live processes of the group by the process table; zombies are dead."""
        if not self._pgid:
            return []
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == self._pgid and process.status() not in _DEAD:
                    found.append(process)
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found

    def _wait_gone(self) -> None:
        """A cluster that was just killed takes milliseconds to be gone; a new life must not begin before."""
        deadline = time.monotonic() + _GONE_S
        while self._alive() or self._hands.ask_zygote(Send(self.name, 0)):
            if time.monotonic() > deadline:
                raise FaultError(
                    f"cluster {self.name} was killed and {len(self._alive())} of its processes still live after "
                    f"{_GONE_S:g} s",
                    hint="a process in uninterruptible sleep? look at its state with ps",
                )
            time.sleep(0.002)


def _agent_urls(config: ControlConfig) -> dict[str, str]:
    return {node.name: f"http://{node.agent.host}:{node.agent.port}/healthz" for node in config.nodes}


def _signals(config: ControlConfig, good: Callable[[Answer], bool]) -> tuple[Signal, ...]:
    """One signal for the API and one for all nodes, each asked now over new connections."""
    urls = [f"{config.url}/readyz", *_agent_urls(config).values()]
    api, *nodes = at_once(lambda url: ask(url, timeout_s=VERIFY_TIMEOUT_S), urls)
    return (
        Signal("api", good(api), str(api)),
        Signal("nodes", all(good(node) for node in nodes), "; ".join(map(str, nodes))),
    )


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return "gone"
