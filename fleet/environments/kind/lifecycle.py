"""``up`` and ``down``: a fleet of kind clusters made, and taken away again, and nothing else touched.

Called by ``blackstart fleet`` and ``KindFleet``. Clusters are made in parallel. A cluster is ours when its containers
carry the marker of this fleet's folder; one of the same name that does not is somebody else's and stays as it is.
A creation that fails or is interrupted takes away what it made.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from fleet.environments.kind import containers, hosting, manifests
from fleet.environments.kind.containers import Container
from fleet.environments.kind.kubernetes.client import Api
from fleet.environments.kind.kubernetes.gpus import reconcile
from fleet.environments.kind.layout import agent_configs, take_ports
from fleet.environments.kind.state import FleetState, Folder, new_id
from fleet.environments.kind.supplies import V2, Supplies, find, hand_over
from fleet.environments.kind.topology import NAMESPACE, NETWORK, ClusterTopology, topology
from fleet.environments.local.layout import PIECE_BYTES
from fleet.environments.local.processes import die_with
from fleet.protocols import Say
from fleet.serving.weights import make_weights
from fleet.spec import FleetSpec
from history.errors import FleetError

WEIGHTS_SEED: Final = 20220623
CREATE_S: Final = 240.0
NODES_S: Final = 60.0
POLL_S: Final = 0.2
FRESH_S: Final = 15.0
"""An API server that has only just come up does not answer every request in time."""


def up(spec: FleetSpec, folder: Folder, say: Say, gateway_port: int = 0, fleet_id: str = "") -> FleetState:
    """The fleet of ``spec``, made where it is not there; returns when every model is served. Idempotent.

    ``fleet_id``: of the one that is made.
    """
    spec.validated()
    state = folder.read()
    if state is not None and state.complete:
        return _again(state, spec, folder, say)
    supplies = find(say)
    _require_free_names(spec, folder)
    if state is not None:
        say("a fleet that was only half made is taken away first")
        down(folder, say)
    try:
        state = _made(spec, folder, supplies, say, gateway_port, fleet_id or new_id())
        hosting.start(state, folder, say)
        hosting.await_served(state, folder, say)
        return folder.change(complete=True)
    except BaseException:
        with contextlib.suppress(FleetError):
            down(folder, lambda _: None, keep_logs=True)
        raise


def down(folder: Folder, say: Say, keep_logs: bool = False) -> None:
    """Takes the fleet away: processes, containers with their volumes, network, folder. Idempotent."""
    with ThreadPoolExecutor(max_workers=1) as beside:
        outside = beside.submit(hosting.stop, folder)
        began, gone = time.monotonic(), 0
        while ours := [one.name for one in _all_containers() if one.marker == str(folder.marker)]:
            containers.remove(ours)  # and again: of a creation that was killed, the engine may still make one
            gone += len(ours)
        if gone:
            say(f"{gone} node containers removed ({time.monotonic() - began:.1f} s)")
    outside.result()
    try:
        containers.remove_network(folder.marker)
    except FleetError as error:
        say(f"the Docker network stays: {error.message}")
    for path in folder.root.glob("*") if folder.root.exists() else ():
        if path.is_dir() and not (keep_logs and path == folder.logs):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.root.rmdir()


def destroy(cluster: ClusterTopology, folder: Folder) -> None:
    """Deletes one cluster with all it held."""
    ours = [one.name for one in containers.of_cluster(cluster.kind_name) if one.marker == str(folder.marker)]
    containers.remove(ours)


def create(cluster: ClusterTopology, state: FleetState, folder: Folder, supplies: Supplies) -> dict[str, str]:
    """Makes one cluster with namespace, token, serving image, GPUs; returns its containers' addresses."""
    conf, config = folder.marker / manifests.NODE_CONF, folder.root / f"{cluster.name}.kind.json"
    if not conf.exists():  # the engine would mount an empty folder in its place
        folder.marker.mkdir(parents=True, exist_ok=True)
        conf.write_text(manifests.NODE_CONF_TEXT)
    told = manifests.kind_config(cluster, supplies.node_image, folder.marker, cgroups_v1=not V2.exists())
    config.write_text(json.dumps(told))
    log, kubeconfig = folder.logs / f"kind-{cluster.name}.log", folder.kubeconfig(cluster.name)
    command = [supplies.kind, "create", "cluster", "--name", cluster.kind_name, "--config", str(config)]
    command += ["--kubeconfig", str(kubeconfig)]
    env = {**os.environ, "KIND_EXPERIMENTAL_DOCKER_NETWORK": NETWORK, "KUBECONFIG": str(kubeconfig)}
    parent = os.getpid()
    with log.open("ab") as file:
        try:
            done = subprocess.run(
                command,
                stdout=file,
                stderr=file,
                env=env,
                timeout=CREATE_S,
                check=False,
                preexec_fn=lambda: die_with(parent),
            )
        except subprocess.TimeoutExpired as error:
            raise FleetError(f"kind took more than {CREATE_S:g} s for {cluster.name}", hint=f"read {log}") from error
    if done.returncode:
        raise FleetError(f"kind could not make {cluster.name}: {_complaint(log)}", hint=f"the whole log is {log}")
    addresses = {one.name: one.address for one in containers.of_cluster(cluster.kind_name)}
    hand_over(supplies, tuple(addresses), cluster.kind_name)
    api = Api(kubeconfig, addresses[cluster.control_plane], cluster.name)
    _put_gpus(api, cluster)
    for put_in in (
        partial(api.create, "/api/v1/namespaces", manifests.namespace()),
        partial(api.create, f"/api/v1/namespaces/{NAMESPACE}/secrets", manifests.secret(state.token)),
        *(partial(api.delete, path, propagationPolicy="Background") for path in manifests.UNUSED),
    ):
        containers.surely(put_in, FRESH_S)
    return addresses


def start_agents(cluster: ClusterTopology, state: FleetState, folder: Folder) -> None:
    """The DaemonSet of node agents, as all addresses are known now."""
    api = Api(folder.kubeconfig(cluster.name), state.addresses[cluster.control_plane], cluster.name)
    agents = manifests.agents(state.serving_image, agent_configs(state, folder, cluster))
    containers.surely(partial(api.create, manifests.DAEMONSETS, agents), FRESH_S)


def await_api(cluster: ClusterTopology, state: FleetState, folder: Folder) -> None:
    """Returns when its nodes are ready and have their GPUs."""
    _put_gpus(Api(folder.kubeconfig(cluster.name), state.addresses[cluster.control_plane], cluster.name), cluster)


def ours(cluster: ClusterTopology, folder: Folder) -> bool:
    """Do all containers of that name carry this fleet's marker? False also when there are none."""
    found = containers.of_cluster(cluster.kind_name)
    return bool(found) and all(one.marker == str(folder.marker) for one in found)


def _again(state: FleetState, spec: FleetSpec, folder: Folder, say: Say) -> FleetState:
    if not same_machines(state.spec, spec):
        raise FleetError(
            f"another fleet is up here: {state.spec.name!r} with clusters "
            f"{', '.join(f'{c.name} ({len(c.nodes)} nodes)' for c in state.spec.clusters)}",
            hint="take it down first: blackstart fleet down --env kind",
        )
    for cluster in state.clusters:
        found = containers.of_cluster(cluster.kind_name)
        if {one.name for one in found} != set(cluster.containers):
            raise FleetError(
                f"cluster {cluster.name} has {len(found)} of {len(cluster.containers)} containers",
                hint="take the fleet down and make it anew: blackstart fleet down --env kind",
            )
        containers.unpause(cluster.containers)
        containers.start(cluster.containers, state.addresses)
        containers.plug_in(cluster.containers, state.addresses)
        for one in found:
            if one.state != "running" or not one.address:
                seen = one.state if one.state != "running" else "off its network"
                say(f"{one.name} was found {seen}: made whole again")
    supplies = find(say)
    if state.spec != spec or state.serving_image != supplies.serving_image:
        say(f"the clusters are up; what runs on them becomes that of {spec.name}, with the serving image as it is now")
        if state.serving_image != supplies.serving_image:
            for cluster in state.clusters:
                hand_over(supplies, cluster.containers, cluster.kind_name)
        state = _reshaped(state, spec, folder, supplies.serving_image)
        hosting.start(state, folder, say)
    elif not hosting.alive(state):
        say("the processes outside the clusters are started again")
        hosting.stop(folder)
        hosting.start(state, folder, say)
    hosting.await_served(state, folder, say)
    for cluster in state.clusters:
        containers.lift(cluster.containers)
    return folder.change()


def same_machines(one: FleetSpec, other: FleetSpec) -> bool:
    """Do two descriptions have the same clusters of the same nodes? What runs on them may differ."""
    return [c.containers for c in topology(one)] == [c.containers for c in topology(other)]


def _reshaped(state: FleetState, spec: FleetSpec, folder: Folder, image: str) -> FleetState:
    """Other models, GPUs, switches or serving image on the clusters that are there: nothing that ran before runs on.
    The image is noted last: where this ends halfway, the next ``up`` does all of it again."""
    hosting.stop(folder)
    noted = folder.change(spec=spec, serving_image="", ports=take_ports(spec, state.host, state.gateway_port))
    state = replace(noted, serving_image=image)
    _weights(spec, folder)

    def reshape(cluster: ClusterTopology) -> None:
        api = Api(folder.kubeconfig(cluster.name), state.addresses[cluster.control_plane], cluster.name)
        _put_gpus(api, cluster)
        owners = (manifests.DEPLOYMENTS, manifests.DAEMONSETS)
        for path in owners:
            containers.surely(partial(api.delete, path, propagationPolicy="Foreground"), FRESH_S)
        _await_none(api, cluster.name, (*owners, f"/api/v1/namespaces/{NAMESPACE}/pods"))
        start_agents(cluster, state, folder)

    _each(state.clusters, reshape, lambda _: None)
    return folder.change(serving_image=image)


def _await_none(api: Api, cluster: str, paths: tuple[str, ...]) -> None:
    """Returns when nothing is left at ``paths``. An owner may go before or after its pods, by how it was deleted, and
    stands in the way of another of its name until then."""
    deadline = time.monotonic() + NODES_S
    while left := [one for path in paths for one in containers.surely(partial(api.get, path), FRESH_S)["items"]]:
        if time.monotonic() > deadline:
            names = ", ".join(one["metadata"]["name"] for one in left)
            raise FleetError(f"what ran on {cluster} does not end: {names}", hint="fleet down, then up")
        time.sleep(POLL_S)


def _weights(spec: FleetSpec, folder: Folder) -> None:
    for model in spec.models:
        for name in model.pool or (model.name,):
            make_weights(folder.work / "weights", name, model.weight_bytes, WEIGHTS_SEED, PIECE_BYTES)


def _require_free_names(spec: FleetSpec, folder: Folder) -> None:
    wanted = {cluster.kind_name for cluster in topology(spec)}
    others = {one.cluster for one in _all_containers() if one.cluster in wanted and one.marker != str(folder.marker)}
    if others:
        raise FleetError(
            f"there are kind clusters of these names that this fleet did not make: {', '.join(sorted(others))}",
            hint="they are left as they are; rename the clusters of your fleet, or have their owner delete them",
        )


def _made(
    spec: FleetSpec, folder: Folder, supplies: Supplies, say: Say, gateway_port: int, fleet_id: str
) -> FleetState:
    for path in (folder.logs, folder.marker, folder.work):
        path.mkdir(parents=True, exist_ok=True)
    subnet, host = containers.make_network(folder.marker)
    state = folder.write(
        FleetState(
            fleet_id=fleet_id,
            spec=spec,
            token=secrets.token_hex(16),
            node_image=supplies.node_image,
            serving_image=supplies.serving_image,
            kind=supplies.kind,
            subnet=subnet,
            host=host,
            gateway_port=gateway_port,
            ports=take_ports(spec, host, gateway_port),
        )
    )
    (folder.marker / "fleet").write_text(state.fleet_id + "\n")
    _weights(spec, folder)
    began, addresses = time.monotonic(), dict[str, str]()

    def made(cluster: ClusterTopology) -> dict[str, str]:
        return create(cluster, state, folder, supplies)

    for found in _each(state.clusters, made, lambda name: say(f"cluster {name} is made ({_since(began)})")):
        addresses |= found
    state = folder.change(addresses=addresses)
    _each(state.clusters, lambda cluster: start_agents(cluster, state, folder), lambda _: None)
    return state


def _each(
    clusters: tuple[ClusterTopology, ...], work: Callable[[ClusterTopology], object], done: Callable[[str], None]
) -> list[dict[str, str]]:
    """``work`` on every cluster at once; when one fails, its error, after the others have ended."""
    results, failure = [], None
    with ThreadPoolExecutor(max_workers=len(clusters)) as pool:
        futures = {pool.submit(work, cluster): cluster.name for cluster in clusters}
        for future in as_completed(futures):
            if (error := future.exception()) is not None:
                failure = failure or error
                continue
            done(futures[future])
            results.append(future.result())
    if failure is not None:
        raise failure
    return results  # type: ignore[return-value]


def _put_gpus(api: Api, cluster: ClusterTopology) -> None:
    """GPUs, labels, taints; returns when all nodes are ready and have them."""
    deadline, seen = time.monotonic() + NODES_S, "its API does not answer"
    while time.monotonic() < deadline:
        with contextlib.suppress(FleetError):
            nodes = reconcile(api, cluster.machines, {})
            if all(node.ready and not node.missing for node in nodes):
                return
            seen = "; ".join(f"{n.name}: {'ready' if n.ready else 'not ready'}, lacks {n.missing}" for n in nodes)
        time.sleep(POLL_S)
    raise FleetError(
        f"cluster {cluster.name} was made, and after {NODES_S:g} s: {seen}", hint="look at its nodes with kubectl"
    )


def _all_containers() -> tuple[Container, ...]:
    return containers.labelled()


def _complaint(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "its log is empty")


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
