"""``KindCluster``: one kind cluster as the harness sees it: describe, reach, watch, and every fault that it can have.

Implements ``Cluster`` and the controls for power, freeze, partition, control plane, rebuild, traffic and restoration.
All faults are Docker's or happen inside the node containers; every verification asks Docker and the network anew. It
never places a replica.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, Protocol

from fleet.environments.kind import containers, faults, lifecycle
from fleet.environments.kind.kubernetes.client import Api, require_open
from fleet.environments.kind.kubernetes.gpus import NodeNow, reconcile
from fleet.environments.kind.kubernetes.pods import FAILED, PENDING, READY, pod_of
from fleet.environments.kind.kubernetes.watch import PATH, PodWatch, Sight
from fleet.environments.kind.layout import adapters, agent_url, lay_out
from fleet.environments.kind.observing import PodOps, only_weights
from fleet.environments.kind.state import FleetState, Folder
from fleet.environments.kind.supplies import Supplies
from fleet.environments.kind.topology import API_PORT, REPLICA_LABEL, ClusterTopology
from fleet.environments.local.ask import Answer, ask, at_once, reachability
from fleet.environments.local.layout import Layout
from fleet.environments.local.restoration import Restoration
from fleet.environments.local.watch import Follower
from fleet.protocols import Emit, Reachability
from history.errors import FaultError, FleetError
from history.op import OBSERVER
from history.priority import go_first
from history.records import ClusterFacts, NodeFacts, Placement, Signal

UNREACHABLE: Final = "unreachable"
VERIFY_S: Final = 0.5
LOOK_S: Final = 0.2
BOOT_S: Final = 2.0
"""An API server that boots on cores which others use takes so long for a handshake, and is up all the same."""
BORN_S: Final = 60.0
"""So long the containers of a cluster that is made are waited for."""
SILENT: Final = ("refused", "unreachable", "connect-timeout", "reset")


class Home(Protocol):
    """What a cluster needs of its fleet."""

    @property
    def folder(self) -> Folder: ...

    @property
    def state(self) -> FleetState:
        """``FleetError`` before the fleet is up."""
        ...

    @property
    def is_up(self) -> bool: ...

    def supplies(self) -> Supplies: ...


class KindCluster(Restoration):
    """See the module docstring. Usable from any thread."""

    def __init__(self, topology: ClusterTopology, home: Home) -> None:
        self._topology = topology
        self._home = home
        self._layout_of: Callable[[], Layout] = lambda: lay_out(home.state, home.folder)
        self._killing: Future[object] | None = None
        self._booting = False
        self._building: threading.Thread | None = None
        self._broken: BaseException | None = None

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._topology.name

    def opted_in(self) -> str:
        """The marker that ``fleet up`` mounted into every container of the cluster, as Docker has it now.

        Before the fleet is up the cluster is one that this run will make, for drills alone.
        """
        if not self._home.is_up:
            return "will be made by blackstart for this run"
        if lifecycle.ours(self._topology, self._home.folder):
            return f"made by blackstart: fleet {self._home.state.fleet_id}"
        return ""

    def describe(self) -> ClusterFacts:
        """Nodes, GPUs and the addresses of its containers, which it keeps over power cycles."""
        nodes = tuple(NodeFacts(machine.name, machine.gpus) for machine in self._topology.machines)
        if not self._home.is_up:
            return ClusterFacts(self.name, nodes, "", ())
        return ClusterFacts(self.name, nodes, self._api_url(), tuple(self._data_urls().values()))

    def reachable(self) -> Reachability:
        """Asks the API and every node's agent at once."""
        return reachability(self._api_url(), self._data_urls())

    def placements(self) -> tuple[Placement, ...]:
        """Pods that are bound to nodes, as the API says; ``FleetError`` when it does not answer."""
        sight = self._sight()
        raws = sight.api.get(PATH, labelSelector=REPLICA_LABEL)["items"]
        pods = [pod_of(raw, sight.node_names, sight.boots) for raw in raws]
        return tuple(
            Placement(pod.model, self.name, pod.node, pod.replica, pod.phase == READY)
            for pod in pods
            if pod.node and pod.phase not in (PENDING, FAILED, "Gone")
        )

    def watch(self, emit: Emit, stop: threading.Event) -> None:
        """Pods by Kubernetes itself; where weights came from by the servers' own words, through the adapter."""
        adapter = next(one for one in adapters(self._home.state, self._home.folder) if one.topology.name == self.name)
        process = f"observer-{self.name}"
        follower = Follower(adapter.url, source=OBSERVER, process=process, cluster=self.name)

        def hear() -> None:
            go_first()
            follower.run(only_weights(emit), stop)

        words = threading.Thread(target=hear, daemon=True)
        words.start()
        watch = PodWatch(self._sight)
        ops = PodOps(self.name, process, emit)
        watch.run(ops, stop)
        ops.end(watch.heard_ns)
        words.join(timeout=3.0)

    # -- power ------------------------------------------------------------------------------------------------------

    @property
    def signatures(self) -> tuple[str, ...]:
        """Node containers that are gone leave addresses that nobody answers for."""
        return (UNREACHABLE,)

    def power_off(self, signature: str = UNREACHABLE) -> None:
        """``docker kill`` of every node container at once."""
        if signature not in self.signatures:
            raise FaultError(
                f"cluster {self.name} cannot lose power with signature {signature!r} here",
                hint=f"possible: {', '.join(self.signatures)}; a black hole is the fault Partition",
            )
        self._killing = containers.kill(self._topology.containers)

    def verify_power_off(self) -> tuple[Signal, ...]:
        """Containers dead, API and data plane silent; all asked now, at once: an engine that takes containers apart
        answers late."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            exited = pool.submit(self._all_in, "exited")
            planes = self._planes_are(lambda answer: answer.how in SILENT)
            return (exited.result(), *planes)

    def power_on(self) -> None:
        """``docker start`` of the control plane's container at its own address; its workers follow as soon as its API
        takes connections. A kubelet that finds no API waits longer and longer, up to 7 s, until it asks again."""
        self._booting = True
        if self._killing is not None:  # the engine would take what it still holds for running as started
            wait([self._killing])
        containers.start((self._topology.control_plane,), self._home.state.addresses)

    def verify_power_on(self) -> tuple[Signal, ...]:
        """API ready, every node's kubelet back, GPUs allocatable as declared; each asked now."""
        wanted = {machine.name: machine.gpus for machine in self._topology.machines}
        time.sleep(LOOK_S if self._booting else 0.0)  # whoever waits for it asks over and over, and takes its cores
        api_answer = ask(self._api_url(), timeout_s=BOOT_S)
        if self._booting and api_answer.how not in SILENT:
            containers.start(self._topology.containers, self._home.state.addresses)
        try:
            nodes = {node.name: node for node in self._nodes()} if api_answer.ok else {}
        except FleetError as error:
            return (Signal("api", api_answer.ok, str(api_answer)), Signal("nodes", False, error.message))
        ready = [name for name in wanted if name in nodes and nodes[name].ready]
        seen = ", ".join(
            f"{name} {nodes[name].gpus if name in nodes else 0} of {count}" for name, count in wanted.items()
        )
        gpus = all(name in nodes and nodes[name].gpus == count for name, count in wanted.items())
        if self._booting and gpus and len(ready) == len(wanted):
            self._booting = False
        return (
            Signal("api", api_answer.ok, str(api_answer)),
            Signal("nodes", len(ready) == len(wanted), f"{len(ready)} of {len(wanted)} ready"),
            Signal("gpus", gpus and len(ready) == len(wanted), seen),
        )

    # -- freeze -----------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """``docker pause`` of every node container."""
        containers.pause(self._topology.containers)

    def verify_frozen(self) -> tuple[Signal, ...]:
        """Containers paused; API and agents take connections and never answer."""
        return (self._all_in("paused"), *self._planes_are(lambda answer: answer.how == "no-answer"))

    def thaw(self) -> None:
        """``docker unpause``."""
        containers.unpause(self._topology.containers)

    def verify_thawed(self) -> tuple[Signal, ...]:
        """Containers run, API and agents answer."""
        return (self._all_in("running"), *self._planes_are(lambda answer: answer.ok))

    # -- partition --------------------------------------------------------------------------------------------------

    def cut_off(self) -> None:
        """A black hole in every node, for everybody but the cluster's own nodes and pods."""
        friends = [self._home.state.addresses[name] for name in self._topology.containers]
        script = faults.cut_off([*friends, self._topology.pod_subnet, self._topology.service_subnet])
        self._in_all(script)

    def verify_cut_off(self) -> tuple[Signal, ...]:
        """The rules stand in every node; API and data plane take no connection any more."""
        return (self._rules(True), *self._planes_are(lambda answer: answer.how in ("connect-timeout", "unreachable")))

    def reconnect(self) -> None:
        """Takes the rules out."""
        self._in_all(faults.RECONNECT)

    def verify_reconnected(self) -> tuple[Signal, ...]:
        """No rule left; API and data plane answer."""
        return (self._rules(False), *self._planes_are(lambda answer: answer.ok))

    # -- cables -----------------------------------------------------------------------------------------------------

    def pull_cables(self) -> None:
        """``docker network disconnect`` of every node container."""
        containers.pull(self._topology.containers)

    def verify_cables_pulled(self) -> tuple[Signal, ...]:
        """Containers run without an address; API and data plane silent."""
        return (self._all_in("running"), self._connected(False), *self._planes_are(lambda answer: answer.how in SILENT))

    def plug_in(self) -> None:
        """``docker network connect`` of each at its own address."""
        containers.plug_in(self._topology.containers, self._home.state.addresses)

    def verify_plugged_in(self) -> tuple[Signal, ...]:
        """Every container has its address; API and agents answer."""
        return (self._connected(True), *self._planes_are(lambda answer: answer.ok))

    # -- control plane ----------------------------------------------------------------------------------------------

    def cut_control_plane(self) -> None:
        """The API server's manifest moves away, and its process ends."""
        self._in_control_plane(faults.CUT_API)

    def verify_control_plane_cut(self) -> tuple[Signal, ...]:
        """The API silent and every node's data plane answering, each asked now."""
        api, nodes = self._answers()
        if api.ok:
            self._in_control_plane(faults.END_API)  # the kubelet was quicker than its look at the folder
        return (
            Signal("control plane", api.how in SILENT, str(api)),
            Signal("data plane", all(one.ok for one in nodes), "; ".join(map(str, nodes))),
        )

    def mend_control_plane(self) -> None:
        """The manifest moves back."""
        self._in_control_plane(faults.MEND_API)

    def verify_control_plane_mended(self) -> tuple[Signal, ...]:
        """API and nodes answer."""
        return self._planes_are(lambda answer: answer.ok)

    # -- rebuild ----------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """The cluster is deleted, its disks too."""
        lifecycle.destroy(self._topology, self._home.folder)

    def verify_destroyed(self) -> tuple[Signal, ...]:
        """No container of that name; API and data plane silent."""
        left = containers.of_cluster(self._topology.kind_name)
        gone = Signal("containers", not left, f"{len(left)} left")
        return (gone, *self._planes_are(lambda answer: answer.how in SILENT))

    def rebuild(self) -> None:
        """A new cluster of the same name; returns when its making has begun."""
        if containers.of_cluster(self._topology.kind_name) or (self._building and self._building.is_alive()):
            return
        self._broken = None
        self._building = threading.Thread(target=self._build, daemon=True)
        self._building.start()

    def verify_rebuilt(self) -> tuple[Signal, ...]:
        """Stages in order: API, nodes, GPUs, agents; each asked now. ``FaultError`` when it could not be made."""
        made = self._building is None or not self._building.is_alive()  # before: what broke it is known when it ends
        if self._broken is not None:
            raise FaultError(f"cluster {self.name} could not be made: {self._broken}", hint="read the log of kind")
        if not containers.of_cluster(self._topology.kind_name):
            return tuple(Signal(stage, False, "no container yet") for stage in ("api", "nodes", "gpus", "agents"))
        found = self.verify_power_on()
        nodes = self._answers()[1] if made else []
        said = "; ".join(map(str, nodes)) if made else "still being made"
        agents = Signal("agents", made and all(node.ok for node in nodes), said)
        return (*found, agents) if len(found) == 3 else (*found, Signal("gpus", False, "not asked"), agents)

    def _build(self) -> None:
        home = self._home
        threading.Thread(target=self._keep_light, daemon=True).start()
        try:
            found = lifecycle.create(self._topology, home.state, home.folder, home.supplies())
            kept = {name: home.state.addresses[name] for name in self._topology.containers}
            if found != kept:  # everybody outside knows the old ones
                wait([containers.kill(self._topology.containers)])
                containers.start(self._topology.containers, kept)
                containers.lift(self._topology.containers)
                lifecycle.await_api(self._topology, home.state, home.folder)
            lifecycle.start_agents(self._topology, home.state, home.folder)
        except BaseException as error:
            self._broken = error

    def _keep_light(self) -> None:
        """Its new containers have little CPU weight, as those that start again do; the adapter gives them theirs."""
        born, deadline = set(self._topology.containers), time.monotonic() + BORN_S
        while born and time.monotonic() < deadline:
            with contextlib.suppress(FleetError):
                new = [one.name for one in containers.of_cluster(self._topology.kind_name) if one.name in born]
                if new:
                    containers.weigh(new, containers.BOOT_SHARES)
                    born -= set(new)
            time.sleep(LOOK_S)

    # -- versions ---------------------------------------------------------------------------------------------------

    def served(self) -> tuple[str, ...]:
        """By the API's own discovery; ``FleetError`` when it does not answer."""
        api = self.api()
        found = [f"v1/{one['kind']}" for one in api.get("/api/v1")["resources"] if "/" not in one["name"]]
        for group in api.get("/apis")["groups"]:
            for version in group["versions"]:
                listed = api.get(f"/apis/{version['groupVersion']}")["resources"]
                found += [f"{version['groupVersion']}/{one['kind']}" for one in listed if "/" not in one["name"]]
        return tuple(dict.fromkeys(found))

    def upgrade(self, version: str) -> str:
        """Refused: one node image has one version; a cluster of another is made anew."""
        have = self.api().get("/version").get("gitVersion", "?")
        return "" if version == have else f"{self.name} runs {have}; kind makes a cluster of another version anew"

    # -- inside -----------------------------------------------------------------------------------------------------

    def _api_url(self) -> str:
        address = self._home.state.addresses[self._topology.control_plane]
        return f"https://{address}:{API_PORT}/readyz"

    def _data_urls(self) -> Mapping[str, str]:
        state = self._home.state
        return {m.name: f"{agent_url(state, m.container)}/healthz" for m in self._topology.machines}

    def api(self) -> Api:
        """A client of its API server."""
        address = self._home.state.addresses[self._topology.control_plane]
        return Api(self._home.folder.kubeconfig(self.name), address, self.name)

    def _boots(self) -> dict[str, float]:
        return containers.boots(containers.inspect(self._topology.containers))

    def _sight(self) -> Sight:
        require_open(self._home.state.addresses[self._topology.control_plane], API_PORT)
        return Sight(self.api(), self._topology.node_names, self._boots())

    def _nodes(self) -> tuple[NodeNow, ...]:
        return reconcile(self.api(), self._topology.machines, self._boots(), mend=False)

    def _answers(self) -> tuple[Answer, list[Answer]]:
        urls = [self._api_url(), *self._data_urls().values()]
        api, *nodes = at_once(lambda url: ask(url, timeout_s=VERIFY_S), urls)
        return api, nodes

    def _planes_are(self, good: Callable[[Answer], bool]) -> tuple[Signal, ...]:
        api, nodes = self._answers()
        return (
            Signal("api", good(api), str(api)),
            Signal("data plane", all(good(node) for node in nodes), "; ".join(map(str, nodes))),
        )

    def _all_in(self, state: str) -> Signal:
        found = containers.inspect(self._topology.containers)
        seen = ", ".join(f"{one.name} {one.state}" for one in found)
        return Signal("containers", bool(found) and all(one.state == state for one in found), seen)

    def _connected(self, wanted: bool) -> Signal:
        found = containers.inspect(self._topology.containers)
        seen = ", ".join(f"{one.name} {one.address or 'has no address'}" for one in found)
        return Signal("cables", bool(found) and all(bool(one.address) == wanted for one in found), seen)

    def _rules(self, wanted: bool) -> Signal:
        found: list[bool] = []
        containers.at_once(
            lambda name: found.append(faults.HOLE in containers.execute(name, faults.SHOW)), self._topology.containers
        )
        return Signal("rules", all(one == wanted for one in found), f"{sum(found)} of {len(found)} nodes have them")

    def _in_all(self, script: str) -> None:
        try:
            containers.at_once(lambda name: containers.execute(name, script), self._topology.containers)
        except FleetError as error:
            raise FaultError(error.message, hint="is the node up?") from error

    def _in_control_plane(self, script: str) -> None:
        try:
            containers.execute(self._topology.control_plane, script)
        except FleetError as error:
            raise FaultError(error.message, hint="is the control plane's container up?") from error
