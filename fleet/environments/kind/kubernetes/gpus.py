"""GPUs on nodes: looked at, put on again where they are missing, and what a cluster's nodes are like now.

The adapter calls ``reconcile`` over and over, so that a node which registered anew gets its GPUs back. It touches only
nodes of the machines that it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fleet.environments.kind.kubernetes.client import Api
from fleet.environments.kind.kubernetes.pods import epoch
from fleet.environments.kind.manifests import gpu_status, missing_on, node_patch
from fleet.environments.kind.topology import Machine

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@dataclass(frozen=True)
class NodeNow:
    """A GPU node as its API has it. ``ready``: the kubelet says so, and has renewed its lease in the node's present
    life. ``missing``: what of labels, taint and GPUs was not on."""

    name: str
    ready: bool
    gpus: int
    missing: tuple[str, ...]


def reconcile(
    api: Api, machines: Iterable[Machine], boots: Mapping[str, float], mend: bool = True
) -> tuple[NodeNow, ...]:
    """Looks at every machine's node and puts on what is missing (with ``mend``); a node that is not there is not
    ready."""
    nodes = {raw["metadata"]["name"]: raw for raw in api.get("/api/v1/nodes")["items"]}
    renewed = {
        lease["metadata"]["name"]: epoch(lease["spec"]["renewTime"])
        for lease in api.get(LEASES)["items"]
        if lease["spec"].get("renewTime")
    }
    found = []
    for machine in machines:
        raw = nodes.get(machine.container)
        if raw is None:
            found.append(NodeNow(machine.name, False, 0, ("node",)))
            continue
        missing = missing_on(raw, machine)
        path = f"/api/v1/nodes/{machine.container}"
        if mend and {"labels", "taint"} & set(missing):
            api.patch(path, node_patch(raw, machine))
        if mend and "gpus" in missing:
            api.patch(f"{path}/status", gpu_status(machine))
        says = any(c["type"] == "Ready" and c["status"] == "True" for c in raw["status"].get("conditions", ()))
        alive = renewed.get(machine.container, 0.0) >= boots.get(machine.container, 0.0)
        gpus = 0 if "gpus" in missing else machine.gpus
        found.append(NodeNow(machine.name, says and alive, gpus, missing))
    return tuple(found)
