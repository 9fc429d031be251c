"""What kind and Kubernetes are told, from the fleet's description; no cluster."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet import fleets
from fleet.environments.kind import manifests
from fleet.environments.kind.offline import versions
from fleet.environments.kind.pod import agent_config, server_config
from fleet.environments.kind.topology import Machine, smaller, topology
from fleet.serving.config import AgentConfig, ServerConfig
from fleet.spec import ClusterSpec, FleetSpec, ModelSpec, NodeSpec
from history.errors import UsageError

CHAT = ModelSpec("chat", "chat", "base", 1, gpus=4)


def server() -> ServerConfig:
    return ServerConfig("amber", "", "chat-1", CHAT, "", 20001, "", "http://10.0.0.1:80")


def test_a_cluster_has_a_control_plane_and_its_nodes_and_subnets_of_its_own() -> None:
    found = topology(fleets.three_clusters())
    assert [c.kind_name for c in found] == ["blackstart-amber", "blackstart-cobalt", "blackstart-jade"]
    amber = found[0]
    assert amber.containers == ("blackstart-amber-control-plane", "blackstart-amber-worker", "blackstart-amber-worker2")
    assert amber.node_names == {"blackstart-amber-worker": "amber-n1", "blackstart-amber-worker2": "amber-n2"}
    assert not amber.combined
    subnets = [subnet for c in found for subnet in (c.pod_subnet, c.service_subnet)]
    assert len(set(subnets)) == 6


def test_a_smaller_fleet_has_one_node_a_cluster_with_all_its_gpus() -> None:
    spec = smaller(fleets.three_clusters())
    assert [(c.nodes[0].name, c.gpus) for c in spec.clusters] == [("amber-n1", 16), ("cobalt-n1", 16), ("jade-n1", 16)]
    (cobalt,) = topology(spec)[1:2]
    assert cobalt.combined
    assert cobalt.containers == (cobalt.control_plane,)
    assert cobalt.machines[0].container == cobalt.control_plane


def test_more_clusters_than_subnets_are_refused() -> None:
    many = tuple(ClusterSpec(f"c{i}", (NodeSpec(f"c{i}-n", 1),)) for i in range(51))
    with pytest.raises(UsageError, match="51 clusters"):
        topology(FleetSpec("many", many, (), ()))


def test_kind_is_told_subnets_image_marker_and_labels() -> None:
    amber = topology(fleets.three_clusters())[0]
    config = manifests.kind_config(amber, "node:v1", Path("/marks/m"), cgroups_v1=False)
    assert msgspec.json.decode(msgspec.json.encode(config)) == config
    patch, kubelet = map(json.loads, config["kubeadmConfigPatches"])
    assert (kubelet["kind"], kubelet["eventRecordQPS"]) == ("KubeletConfiguration", 1)
    assert patch["apiVersion"] == "kubeadm.k8s.io/v1beta3", "kind leaves out a patch of another than it writes itself"
    assert patch["featureGates"] == {"PublicKeysECDSA": True}
    assert [patch[part]["extraArgs"]["leader-elect"] for part in ("controllerManager", "scheduler")] == ["false"] * 2
    subnets = {"podSubnet": amber.pod_subnet, "serviceSubnet": amber.service_subnet}
    assert config["networking"] == subnets | {"kubeProxyMode": "none"}
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker"]
    assert "labels" not in config["nodes"][0]
    assert config["nodes"][2]["labels"] == {"blackstart.dev/node": "amber-n2"}
    assert all(node["image"] == "node:v1" for node in config["nodes"])
    mounts = [{it["hostPath"]: it["containerPath"] for it in node["extraMounts"]} for node in config["nodes"]]
    assert mounts == 3 * [{"/marks/m": "/blackstart", "/marks/m/node.conf": manifests.SYSTEMD_CONF}]
    assert "image" not in manifests.kind_config(amber, "", Path("/m"), cgroups_v1=False)["nodes"][0], (
        "kind's own choice"
    )


def test_with_cgroup_v1_kubelet_and_runtime_agree_to_write_cgroups_themselves() -> None:
    amber = topology(fleets.three_clusters())[0]
    config = manifests.kind_config(amber, "", Path("/m"), cgroups_v1=True)
    assert json.loads(config["kubeadmConfigPatches"][1])["cgroupDriver"] == "cgroupfs"
    (patch,) = map(tomllib.loads, config["containerdConfigPatches"])
    runtimes = patch["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]
    assert runtimes == {"runc": {"options": {"SystemdCgroup": False}}}
    config = manifests.kind_config(amber, "", Path("/m"), cgroups_v1=False)
    assert "cgroupDriver" not in json.loads(config["kubeadmConfigPatches"][1])
    assert config["containerdConfigPatches"] == []


MACHINE = Machine("amber-n1", "blackstart-amber-worker", 8, 1)


def node(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"kubernetes.io/os": "linux"}},
        "spec": {"taints": [{"key": "other"}]},
        "status": status,
    }


def test_a_bare_node_lacks_everything_and_the_patches_put_it_on() -> None:
    bare = node(capacity={"cpu": "2"}, allocatable={"cpu": "2"})
    assert manifests.missing_on(bare, MACHINE) == ("labels", "taint", "gpus")
    patch = manifests.node_patch(bare, MACHINE)
    assert {"key": "other"} in patch["spec"]["taints"], "taints of others stay"
    assert patch["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    assert patch["metadata"]["labels"]["blackstart.dev/simulated-gpus"] == "true"
    full = node(**manifests.gpu_status(MACHINE)["status"])
    full["metadata"]["labels"] |= patch["metadata"]["labels"]
    full["spec"]["taints"] = patch["spec"]["taints"]
    assert manifests.missing_on(full, MACHINE) == ()


def test_gpus_that_are_only_in_capacity_are_missing() -> None:
    zeroed = node(capacity={"nvidia.com/gpu": "8"}, allocatable={"nvidia.com/gpu": "0"})
    assert "gpus" in manifests.missing_on(zeroed, MACHINE)


def test_a_replica_is_a_deployment_with_gpu_limits_toleration_and_readiness() -> None:
    body = manifests.deployment("img", server(), {"c": "amber-n1"}, 137, hint="amber-n1")
    pod = body["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert container["imagePullPolicy"] == "Never"
    probe = container["readinessProbe"]
    assert probe["httpGet"] == {"path": "/healthz?wait_s=2.8", "port": 20001}
    assert probe["timeoutSeconds"] > 2.8, "the kubelet must not hang up before the server says that it is not ready"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert body["spec"]["selector"]["matchLabels"].items() <= body["spec"]["template"]["metadata"]["labels"].items()
    affinity = pod["affinity"]["nodeAffinity"]
    assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"], "a wish, never a demand"
    assert "affinity" not in manifests.deployment("img", server(), {}, 100)["spec"]["template"]["spec"]


def env_of(pod: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"] if "value" in one}


def test_a_pod_reads_back_what_it_was_told_and_adds_where_it_is() -> None:
    body = manifests.deployment("img", server(), {"blackstart-amber-worker": "amber-n1"}, 100)
    env = env_of(body["spec"]["template"]["spec"])
    env |= {"BLACKSTART_NODE": "blackstart-amber-worker", "BLACKSTART_HOST": "127.29.0.4", "BLACKSTART_TOKEN": "t"}
    config = server_config(env)
    assert (config.node, config.host, config.agent_url) == ("amber-n1", "127.29.0.4", "http://127.29.0.4:7070")
    assert (config.replica, config.model.gpus, config.port, config.token) == ("chat-1", 4, 20001, "t")


def test_each_agent_reads_the_part_of_its_own_node_and_no_manifest_has_the_token() -> None:
    configs = {
        name: AgentConfig("amber", f"{name}-n", "10.0.0.9", 7070, Path("/c"), 5, ("http://s",), token="tell-nobody")
        for name in ("one", "two")
    }
    body = manifests.agents("img", configs)
    assert "tell-nobody" not in str(body)
    pod = body["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {}, "agents take no GPU"
    config = agent_config(env_of(pod) | {"BLACKSTART_NODE": "two", "BLACKSTART_TOKEN": "x"})
    assert (config.node, config.cache_dir, config.token) == ("two-n", Path("/c"), "x")


@pytest.mark.parametrize(("cores", "gpus", "cpu"), [(2, 6, 191), (2, 8, 143), (2, 16, 71), (8, 8, 200), (1, 8, 18)])
def test_a_replica_on_each_gpu_fits_beside_the_nodes_own_pods(cores: int, gpus: int, cpu: int) -> None:
    assert manifests.replica_cpu(cores, gpus) == cpu
    assert cpu * gpus + 850 <= cores * 1000
    asked = manifests.deployment("img", server(), {}, cpu)["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert asked["requests"]["cpu"] == f"{cpu}m"


def test_servers_read_weights_through_the_agents_root_and_wait_for_no_volume(tmp_path: Path) -> None:
    agent = manifests.agents("img", {"one": AgentConfig("amber", "n", "10.0.0.9", 7070, tmp_path, 5, ("http://s",))})
    pods = [
        agent["spec"]["template"]["spec"],
        manifests.deployment("img", server(), {}, 100)["spec"]["template"]["spec"],
    ]
    assert [bool(pod.get("volumes")) for pod in pods] == [True, False]
    assert all(pod["hostPID"] for pod in pods), "or the agent's root has no path that a server could open"
    config = agent_config(env_of(pods[0]) | {"BLACKSTART_NODE": "one"})
    (tmp_path / "weights").write_bytes(b"w")
    assert Path(f"{config.seen_at}{config.cache_dir}/weights").read_bytes() == b"w"


IMPORTS = """
import importlib.metadata, sys
import fleet.environments.kind.pod
from fleet.serving import agent, server
found = importlib.metadata.packages_distributions()
print(*{name for module in sys.modules for name in found.get(module.partition(".")[0], ())})
"""


def with_what_they_need(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    wanted = list(names)
    while wanted:
        name = re.split(r"[^\w.-]", wanted.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            with contextlib.suppress(PackageNotFoundError):
                wanted += [one for one in requires(name) or () if "extra ==" not in one]
    return found


def test_a_pod_imports_nothing_that_its_image_lacks() -> None:
    said = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    optional = {"blackstart", "brotli", "setuptools"}  # aiohttp tries brotli; a .pth file of setuptools runs always
    imported = {name.lower().replace("_", "-") for name in said.split()} - optional
    assert "aiohttp" in imported
    assert imported <= with_what_they_need(versions.read().requirements)
