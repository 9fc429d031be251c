"""What is missing is said with the command that supplies it; nothing here needs an engine."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from fleet import fleets
from fleet.environments.kind import containers, lifecycle, manifests, supplies
from fleet.environments.kind.hosting import Served
from fleet.environments.kind.kubernetes.client import Api, Refused
from fleet.environments.kind.offline.paths import Image, Paths
from fleet.environments.kind.state import FleetState, Folder
from fleet.environments.kind.supplies import Supplies
from fleet.environments.kind.topology import topology
from history.errors import FleetError


def silent(_: str) -> None:
    return None


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An engine that answers, and nothing built."""
    monkeypatch.setattr("fleet.environments.kind.supplies.engine.check_engine", lambda: "27.0")
    monkeypatch.setattr(Paths, "of_this_machine", classmethod(lambda cls: cls(tmp_path)))
    return monkeypatch


def test_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for why, mended in (("connection refused", "make docker-engine"), ("Permission denied: socket", "usermod -aG")):
        monkeypatch.setattr("fleet.environments.kind.offline.docker.ask", lambda why=why: ("", why))
        with pytest.raises(FleetError, match=why) as error:
            supplies.find(silent)
        assert mended in error.value.hint


def test_no_kind(bare: pytest.MonkeyPatch) -> None:
    bare.setattr("shutil.which", lambda _: None)
    with pytest.raises(FleetError, match="kind is not on the PATH") as error:
        supplies.find(silent)
    assert "make kind-images" in error.value.hint


def test_no_serving_image(bare: pytest.MonkeyPatch) -> None:
    bare.setattr("shutil.which", lambda _: "/usr/bin/kind")
    bare.setattr(supplies, "docker", lambda *_: "")
    with pytest.raises(FleetError, match="has no image blackstart/serving:local") as error:
        supplies.find(silent)
    assert error.value.hint == supplies.DOCKERFILE


def test_kind_too_old(bare: pytest.MonkeyPatch) -> None:
    bare.setattr("shutil.which", lambda _: "/usr/bin/kind")
    bare.setattr(supplies, "docker", lambda *_: "an image")
    bare.setattr(supplies, "kind_version", lambda _: "0.20.0")
    with pytest.raises(FleetError, match=r"0\.20\.0; at least 0\.24"):
        supplies.find(silent)
    bare.setattr(supplies, "kind_version", lambda _: "0.30.0")
    assert supplies.find(silent) == Supplies("/usr/bin/kind", supplies.PUBLISHED, "blackstart/serving:local", None)


def test_a_node_image_that_this_host_cannot_run_is_refused_before_anything_is_made(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.setattr("shutil.which", lambda _: "/usr/bin/kind")
    bare.setattr(supplies, "docker", lambda *_: "an image")
    bare.setattr(supplies, "kind_version", lambda _: "0.30.0")
    bare.setattr(supplies, "V2", tmp_path / "none")
    bare.setenv("BLACKSTART_NODE_IMAGE", "kindest/node:v1.36.1")
    with pytest.raises(FleetError, match=r"kindest/node:v1\.36\.1 is too new .* cgroup v1: .*1\.34"):
        supplies.find(silent)
    bare.setattr(supplies, "V2", tmp_path)
    assert supplies.find(silent).node_image == "kindest/node:v1.36.1"


def test_a_cluster_is_rebuilt_of_what_its_fleet_was_made_of_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = Image("localhost/blackstart/serving:abc", tmp_path / "image.tar", "abc")
    monkeypatch.setattr(Paths, "images", {"serving": built})
    monkeypatch.setattr(
        "fleet.environments.kind.offline.images.ensure", lambda _: pytest.fail("a drill builds nothing")
    )
    assert supplies.of_a_fleet("k", "n", built.name) == Supplies("k", "n", built.name, built)
    assert supplies.of_a_fleet("k", "n", supplies.LOCAL_IMAGE).offline is None
    with pytest.raises(FleetError, match="serving:old is no longer the one that was built last") as error:
        supplies.of_a_fleet("k", "n", "localhost/blackstart/serving:old")
    assert "fleet down" in error.value.hint


def test_a_cluster_that_kind_cannot_make_says_why_and_everything_made_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, gone = Folder(tmp_path / "kind"), list[str]()
    kind = tmp_path / "kind.sh"
    kind.write_text(
        '#!/bin/sh\necho "Creating cluster"; echo "ERROR: failed to create cluster: no space left"; exit 1\n'
    )
    kind.chmod(0o755)
    monkeypatch.setattr(lifecycle, "find", lambda _: Supplies(str(kind), "", "s", None))
    monkeypatch.setattr(containers, "labelled", lambda *_: ())
    monkeypatch.setattr(containers, "make_network", lambda _: ("10.9.0.0/16", "127.0.0.1"))
    monkeypatch.setattr(containers, "remove_network", lambda owner: gone.append(str(owner)))
    with pytest.raises(FleetError, match="ERROR: failed to create cluster: no space left") as error:
        lifecycle.up(fleets.micro(), folder, silent)
    assert str(folder.logs) in error.value.hint
    assert gone == [str(folder.marker)]
    assert folder.read() is None, "no half-made fleet is left behind"
    assert list(folder.logs.glob("kind-*.log")), "but the logs that the error names"


@pytest.mark.parametrize("cgroups", ["v1", "v2"])
def test_kind_is_told_the_fleets_network_and_never_the_users_kubeconfig(
    cgroups: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, told = Folder(tmp_path / "kind"), dict[str, str]()
    monkeypatch.setattr(lifecycle, "V2", tmp_path if cgroups == "v2" else tmp_path / "none")
    folder.logs.mkdir(parents=True)
    monkeypatch.setenv("KUBECONFIG", "/home/user/config")
    state = FleetState("f", fleets.micro(), "t", "n", "s", "kind", "", "", 0, {})

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        env = options["env"]
        assert isinstance(env, dict)
        told.update(env | {"command": " ".join(command)})
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FleetError):
        lifecycle.create(topology(fleets.micro())[0], state, folder, Supplies("kind", "n", "s", None))
    assert told["KIND_EXPERIMENTAL_DOCKER_NETWORK"] == "blackstart"
    assert told["KUBECONFIG"] == str(folder.kubeconfig("amber"))
    assert f"--kubeconfig {folder.kubeconfig('amber')}" in told["command"]
    assert (folder.marker / "node.conf").read_text() == manifests.NODE_CONF_TEXT, "what is mounted is there"
    patches = json.loads((folder.root / "amber.kind.json").read_text())["containerdConfigPatches"]
    assert patches == ([manifests.CGROUPS_V1_CONTAINERD] if cgroups == "v1" else [])


def test_another_fleet_is_not_replaced(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kind")
    folder.write(FleetState("f", fleets.micro(), "t", "n", "s", "kind", "", "", 0, {}, complete=True))
    with pytest.raises(FleetError, match="another fleet is up here: 'micro'") as error:
        lifecycle.up(fleets.three_clusters(), folder, silent)
    assert "fleet down" in error.value.hint


@pytest.mark.parametrize("others", [True, False])
def test_a_network_of_that_name_is_used_and_removed_by_its_own_fleet_alone(
    others: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    label = {} if others else {containers.OWNER: str(tmp_path)}
    told = [{"IPAM": {"Config": [{"Subnet": "127.29.0.0/16", "Gateway": "127.29.0.1"}]}, "Labels": label}]
    removed: list[tuple[str, ...]] = []

    def docker(*words: str) -> str:
        if words[:2] != ("network", "inspect"):
            removed.append(words)
        return json.dumps(told)

    monkeypatch.setattr(containers, "docker", docker)
    if others:
        with pytest.raises(FleetError, match="'blackstart' that this fleet did not make"):
            containers.make_network(tmp_path)
    else:
        assert containers.make_network(tmp_path) == ("127.29.0.0/16", "127.29.0.1")
    containers.remove_network(tmp_path)
    assert removed == ([] if others else [("network", "rm", "blackstart")])


def test_a_half_made_fleet_is_taken_away_before_another_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, did = Folder(tmp_path / "kind"), list[str]()
    folder.write(FleetState("half", fleets.micro(), "t", "n", "s", "kind", "", "", 0, {}))
    made = FleetState("new", fleets.micro(), "t", "n", "s", "kind", "", "", 0, {})

    def make(*_: object) -> FleetState:
        did.append(f"made while {folder.read()} is there")
        return folder.write(made)

    monkeypatch.setattr(lifecycle, "find", lambda _: Supplies("kind", "n", "s", None))
    monkeypatch.setattr(containers, "labelled", lambda *_: ())
    monkeypatch.setattr(containers, "remove_network", lambda owner: did.append("network removed"))
    monkeypatch.setattr(lifecycle, "_made", make)
    for act in ("start", "await_served"):
        monkeypatch.setattr(f"fleet.environments.kind.hosting.{act}", lambda *_: None)
    said: list[str] = []
    assert lifecycle.up(fleets.micro(), folder, said.append).complete
    assert did == ["network removed", "made while None is there"]
    assert said == ["a fleet that was only half made is taken away first"]


class Ending:
    """An API whose DaemonSet is seen until the third look, and which takes no other of its name until then."""

    def __init__(self, *_: object) -> None:
        self.looks, self.did = 0, list[str]()

    def delete(self, path: str, **_: object) -> bool:
        self.did.append(f"delete {path.rsplit('/', 1)[1]}")
        return True

    def get(self, path: str) -> dict[str, list[dict[str, dict[str, str]]]]:
        if path != manifests.DAEMONSETS:
            return {"items": []}
        self.looks += 1
        return {"items": [{"metadata": {"name": "agent"}}] if self.looks < 3 else []}

    def create(self, *_: object) -> None:
        self.did.append(f"create after {self.looks} looks")


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_fleet_that_takes_clusters_over_waits_for_what_was_there(
    interrupted: bool, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, spec = folder.read(), fleets.three_clusters(0)
    assert before is not None
    apis: list[Ending] = []

    def api(*_: object) -> Ending:
        apis.append(Ending())
        return apis[-1]

    def start_agents(*_: object) -> None:
        if interrupted:
            raise KeyboardInterrupt
        apis[-1].create()

    monkeypatch.setattr(lifecycle, "Api", api)
    monkeypatch.setattr(lifecycle, "_put_gpus", lambda *_: None)
    monkeypatch.setattr(lifecycle, "_weights", lambda *_: None)
    monkeypatch.setattr(lifecycle, "POLL_S", 0.0)
    monkeypatch.setattr(lifecycle, "start_agents", start_agents)
    monkeypatch.setattr(lifecycle, "_each", lambda clusters, work, _: [work(one) for one in clusters])
    monkeypatch.setattr("fleet.environments.kind.hosting.stop", lambda _: None)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            lifecycle._reshaped(before, spec, folder, "new")
        noted = folder.read()
        assert noted is not None
        assert noted.serving_image == "", "the next one begins again"
        return
    assert lifecycle._reshaped(before, spec, folder, "new") == folder.read()
    assert [one.did for one in apis] == [["delete deployments", "delete daemonsets", "create after 3 looks"]] * 3
    noted = folder.read()
    assert noted is not None
    assert (noted.spec, noted.serving_image) == (spec, "new")


def test_one_that_is_ending_is_not_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    api, said = Api.__new__(Api), 'deployments.apps "m" already exists'

    def refuse(*_: object) -> None:
        raise Refused(said, 409)

    monkeypatch.setattr(Api, "call", refuse)
    assert api.create("/deployments", {}) is False
    said = f"object is being deleted: {said}"
    with pytest.raises(Refused, match="being deleted"):
        api.create("/deployments", {})


def test_a_fleet_with_more_replicas_than_it_declares_is_not_whole() -> None:
    state = FleetState("f", fleets.micro(), "t", "n", "s", "kind", "", "", 0, {})
    rows = [
        {"model": one.name, "name": f"{one.name}-{i}", "phase": "Ready", "node": "n", "gpus": 1}
        for one in fleets.micro().models
        for i in range(one.replicas)
    ]

    def lacks(*more: dict[str, object]) -> str:
        found = (*rows, *more)
        return Served({}, found, Counter(str(row["model"]) for row in found), {}).lacks(state)

    assert lacks() == ""
    assert lacks({**rows[-1], "name": "curie-1-s7"}) == "curie 2 for 1"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Cannot connect to the Docker daemon at unix:///d.sock. Is the docker daemon running?", "make docker-engine"),
        ("permission denied while trying to connect to the Docker daemon socket at unix:///d.sock", "usermod"),
    ],
)
def test_any_call_of_docker_says_in_the_same_words_that_no_engine_answers(
    said: str, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\necho '{said}' >&2; exit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FleetError, match="no Docker engine answers: ") as error:
        containers.docker("ps", "--all")
    assert said in error.value.message
    assert advice in error.value.hint
