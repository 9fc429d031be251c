"""What kind and Kubernetes are told: kind's configuration, GPUs on nodes, the node agents, a model's Deployment.

Pure: values in, JSON-able dicts out. Sent by ``lifecycle`` and the adapter. Pods use their node's network, so that a
node's address is all that anybody outside needs to reach them, and its process ids: a model server reads weights
through the agent's own root (``pod``). A volume would do the same 0.3 s later: the kubelet waits so long between two
looks at whether it is mounted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from fleet.environments.kind.topology import (
    AGENT_PORT,
    DOMAIN,
    MARKER_DIR,
    MODEL_LABEL,
    NAMESPACE,
    NODE_LABEL,
    REPLICA_LABEL,
    ClusterTopology,
    Machine,
)
from fleet.serving.config import AgentConfig, ServerConfig

GPU: Final = "nvidia.com/gpu"
GPU_MIB: Final = 81920
SIMULATED: Final = f"{DOMAIN}/simulated-gpus"
PORT_ANNOTATION: Final = f"{DOMAIN}/port"
HINT_ANNOTATION: Final = f"{DOMAIN}/hint"
CACHE: Final = "/run/blackstart-cache"
"""In the node's memory file system: a node that loses power loses its cache."""
SECRET: Final = "token"
CONFIG_VARIABLE: Final = "BLACKSTART_POD"
NODE_VARIABLE: Final = "BLACKSTART_NODE"
HOST_VARIABLE: Final = "BLACKSTART_HOST"
TOKEN_VARIABLE: Final = "BLACKSTART_TOKEN"
AGENT_CPU: Final = 50
"""Thousandths of a core that an agent asks for: who asks for nothing starves while others of its node are busy."""
OWN_CPU: Final = 850
"""What a node asks for itself at most, its agent included: a control plane's pods take 650 by kubeadm's manifests."""
MOST_CPU: Final = 200
DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
DAEMONSETS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
UNUSED: Final = (
    "/apis/apps/v1/namespaces/kube-system/deployments/coredns",
    "/apis/apps/v1/namespaces/kube-system/daemonsets/node-routes",
    "/apis/apps/v1/namespaces/local-path-storage/deployments/local-path-provisioner",
)
"""What kind puts into a cluster and nothing here uses: names, routes between pods (all are in their node's network),
volumes. Each would cost a booting cluster its cores, and without kube-proxy the last two would ask in vain for ever."""
FRUGAL: Final = {
    "apiVersion": "kubeadm.k8s.io/v1beta3",
    "kind": "ClusterConfiguration",
    "etcd": {"local": {"extraArgs": {"unsafe-no-fsync": "true"}}},
    "controllerManager": {"extraArgs": {"leader-elect": "false"}},
    "scheduler": {"extraArgs": {"leader-elect": "false"}},
    "featureGates": {"PublicKeysECDSA": True},
}
"""What kubeadm is told, since all clusters share this host's cores and disk (kind writes v1beta3 for Kubernetes before
1.36; a newer one keeps kubeadm's defaults, and costs more). The etcds would wait for each other's fsync: what they
wrote outlives a SIGKILL all the same, since it is with the kernel; the host's own crash may cost the fleet, which is
made anew in a minute. Who is alone needs no leader: no lease to renew every other second, none to outwait (15 s) after
a power loss. An elliptic signature costs less than one of RSA (``openssl speed rsa2048 ecdsap256``)."""
FRUGAL_KUBELET: Final = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "eventRecordQPS": 1,
    "eventBurst": 1,
}
"""A kubelet tells one event a second, where it would tell fifty: who reads of them reads a little later, and a pod that
starts does not have its API server write three times more just then."""
CGROUPS_V1_KUBELET: Final = {"cgroupDriver": "cgroupfs"}
CGROUPS_V1_CONTAINERD: Final = """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"""
"""With cgroup v1, kubelet and runtime write cgroups themselves. Where they ask systemd, they still make the one of the
devices, and when systemd tidies that hierarchy up at the same moment (a node that boots starts all its pods at once),
the kubelet's journal says "failed to ensure that the pod: ... cgroups exist", and it leaves that pod alone for its
``backOffPeriod`` of 10 s, and up to half as much again (kubelet.go, pod_workers.go)."""
NODE_CONF: Final = "node.conf"
SYSTEMD_CONF: Final = "/etc/systemd/system.conf.d/blackstart.conf"
NODE_CONF_TEXT: Final = "[Manager]\nTimerSlackNSec=4ms\nDefaultEnvironment=GOMAXPROCS=1 GOGC=300\n"
"""For the systemd of every node, and so for all that runs there. Timers may fire up to 4 ms late, and so together: Go's
servers wake hundreds of times a second for nothing, and each wake costs (``vmstat 5`` beside an idle fleet of nine
nodes: 20,000 switches a second without it, 8,000 with it). kubelet and containerd have one running thread each, and
a heap that may grow to four times what lives. Model servers and agents take their own slack back (``pod``)."""
PROBE_S: Final = 3
"""A readiness probe waits for its answer while the server loads: one that is refused is repeated a second later."""
GRACE_S: Final = 2
"""A model server drains for at most 1 s."""


def kind_config(cluster: ClusterTopology, image: str, marker: Path, *, cgroups_v1: bool) -> dict[str, Any]:
    """The configuration for ``kind create cluster``; ``marker``: the folder that says whose it is; ``cgroups_v1``: what
    this host has."""
    names = {machine.container: machine.name for machine in cluster.machines}

    def node(container: str, role: str) -> dict[str, Any]:
        mounts = [
            {"hostPath": str(marker), "containerPath": MARKER_DIR, "readOnly": True},
            {"hostPath": str(marker / NODE_CONF), "containerPath": SYSTEMD_CONF, "readOnly": True},
        ]
        found: dict[str, Any] = {"role": role, "extraMounts": mounts}
        found |= {"image": image} if image else {}
        return found | ({"labels": {NODE_LABEL: names[container]}} if container in names else {})

    first, *rest = cluster.containers
    kubelet = FRUGAL_KUBELET | (CGROUPS_V1_KUBELET if cgroups_v1 else {})
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": cluster.kind_name,
        "kubeadmConfigPatches": [json.dumps(FRUGAL), json.dumps(kubelet)],
        "containerdConfigPatches": [CGROUPS_V1_CONTAINERD] if cgroups_v1 else [],
        "networking": {
            "podSubnet": cluster.pod_subnet,
            "serviceSubnet": cluster.service_subnet,
            "kubeProxyMode": "none",  # nobody here asks a Service
        },
        "nodes": [node(first, "control-plane"), *(node(container, "worker") for container in rest)],
    }


def gpu_labels(machine: Machine) -> dict[str, str]:
    """The labels of GPU feature discovery, and ours that says that there is no such GPU."""
    return {
        f"{GPU}.present": "true",
        f"{GPU}.product": "NVIDIA-A100-SXM4-80GB",
        f"{GPU}.count": str(machine.gpus),
        f"{GPU}.memory": str(GPU_MIB),
        f"{GPU}.family": "ampere",
        SIMULATED: "true",
        NODE_LABEL: machine.name,
    }


def gpu_taint() -> dict[str, str]:
    """Keeps everything off the GPUs that does not ask for them."""
    return {"key": GPU, "value": "present", "effect": "NoSchedule"}


def gpu_status(machine: Machine) -> dict[str, Any]:
    """The merge patch of a node's status."""
    count = {GPU: str(machine.gpus)}
    return {"status": {"capacity": count, "allocatable": count}}


def missing_on(node: Mapping[str, Any], machine: Machine) -> tuple[str, ...]:
    """What of labels, taint and GPUs a node (as the API gives it) lacks; empty when all is on."""
    labels, taints = node["metadata"].get("labels", {}), node["spec"].get("taints", [])
    found = [] if gpu_labels(machine).items() <= labels.items() else ["labels"]
    found += [] if any(taint.get("key") == GPU for taint in taints) else ["taint"]
    status = node.get("status", {})
    right = all(status.get(part, {}).get(GPU) == str(machine.gpus) for part in ("capacity", "allocatable"))
    return (*found, *(() if right else ("gpus",)))


def node_patch(node: Mapping[str, Any], machine: Machine) -> dict[str, Any]:
    """The merge patch of a node's labels and taints; taints of others stay."""
    others = [taint for taint in node["spec"].get("taints", []) if taint.get("key") != GPU]
    return {"metadata": {"labels": gpu_labels(machine)}, "spec": {"taints": [*others, gpu_taint()]}}


def namespace() -> dict[str, Any]:
    """Everything of ours stands in it."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def secret(token: str) -> dict[str, Any]:
    """The fleet's token, for requests that change something."""
    metadata = {"name": SECRET, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}


def agents(image: str, configs: Mapping[str, AgentConfig]) -> dict[str, Any]:
    """The DaemonSet of node agents; ``configs`` by container."""
    told = {container: _plain(config) for container, config in configs.items()}
    pod = _pod("agent", image, "agent", told, AGENT_PORT, AGENT_CPU, {})
    pod["containers"][0]["volumeMounts"] = [{"name": "cache", "mountPath": CACHE}]
    pod["volumes"] = [{"name": "cache", "hostPath": {"path": CACHE, "type": "DirectoryOrCreate"}}]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": pod},
        },
    }


def replica_cpu(cores: int, gpus: int) -> int:
    """Thousandths of a core that a replica asks for where a node has ``gpus``: as much as leaves room for one on each.
    What it asks for is its weight against the node's own pods, which are busiest when a cluster comes or goes."""
    return max(1, min(MOST_CPU, (cores * 1000 - OWN_CPU) // gpus))


def deployment(
    image: str, config: ServerConfig, node_names: Mapping[str, str], cpu: int, hint: str = ""
) -> dict[str, Any]:
    """A replica of a model: a Deployment of one pod. ``cpu``: thousandths of a core that it asks for; ``hint``: the
    node that the allocator had in mind; the scheduler prefers it and is not bound by it."""
    labels = {"app": "model-server", REPLICA_LABEL: config.replica, MODEL_LABEL: config.model.name}
    pod = _pod(
        "server",
        image,
        "server",
        {"config": _plain(config), "nodes": dict(node_names)},
        config.port,
        cpu,
        {GPU: str(config.model.gpus)},
    )
    if hint:
        wish = {"matchExpressions": [{"key": NODE_LABEL, "operator": "In", "values": [hint]}]}
        preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": wish}]}
        pod["affinity"] = {"nodeAffinity": preferred}
    noted = {PORT_ANNOTATION: str(config.port), HINT_ANNOTATION: hint}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": config.replica, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {REPLICA_LABEL: config.replica}},
            "template": {"metadata": {"labels": labels, "annotations": noted}, "spec": pod},
        },
    }


def _plain(config: AgentConfig | ServerConfig) -> dict[str, Any]:
    """A config as JSON, without the token."""
    plain = msgspec.to_builtins(config, enc_hook=str)
    return {key: value for key, value in plain.items() if key != "token"}


def _pod(
    name: str, image: str, role: str, told: Mapping[str, Any], port: int, cpu: int, limits: Mapping[str, str]
) -> dict[str, Any]:
    token = {"secretKeyRef": {"name": SECRET, "key": "token"}}
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-m", "fleet.environments.kind.pod", role],
        "env": [
            {"name": CONFIG_VARIABLE, "value": msgspec.json.encode(told).decode()},
            {"name": NODE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": HOST_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": TOKEN_VARIABLE, "valueFrom": token},
            {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
        ],
        "ports": [{"containerPort": port, "hostPort": port}],
        "readinessProbe": {
            "httpGet": {"path": f"/healthz?wait_s={PROBE_S - 0.2}", "port": port},
            "periodSeconds": 1,
            "timeoutSeconds": PROBE_S,
            "failureThreshold": 2,
        },
    }
    container["resources"] = {"requests": {"cpu": f"{cpu}m", "memory": "64Mi"}, "limits": dict(limits)}
    return {
        "hostNetwork": True,
        "hostPID": True,
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "tolerations": [{"key": GPU, "operator": "Exists"}],
        "nodeSelector": {f"{GPU}.present": "true"},
        "containers": [container],
    }
