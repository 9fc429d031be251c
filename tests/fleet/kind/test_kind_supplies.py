"""What is missing is said with the command that supplies it; nothing here needs an engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fleet import fleets
from fleet.environments.kind import containers, lifecycle, supplies
from fleet.environments.kind.offline.paths import Paths
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
    assert supplies.find(silent) == Supplies("/usr/bin/kind", "", "blackstart/serving:local", None)


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
    monkeypatch.setattr(supplies, "V2", tmp_path / "controllers")
    monkeypatch.setattr(containers, "labelled", lambda *_: ())
    monkeypatch.setattr(containers, "make_network", lambda: ("10.9.0.0/16", "127.0.0.1"))
    monkeypatch.setattr(containers, "remove_network", lambda: gone.append("network"))
    with pytest.raises(FleetError, match="ERROR: failed to create cluster: no space left") as error:
        lifecycle.up(fleets.micro(), folder, silent)
    assert "cgroup v1: use a node image of Kubernetes 1.34" in error.value.hint
    assert gone == ["network"]
    assert folder.read() is None, "no half-made fleet is left behind"
    assert list(folder.logs.glob("kind-*.log")), "but the logs that the error names"


def test_kind_is_told_the_fleets_network_and_never_the_users_kubeconfig(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, told = Folder(tmp_path / "kind"), dict[str, str]()
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


def test_another_fleet_is_not_replaced(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kind")
    folder.write(FleetState("f", fleets.micro(), "t", "n", "s", "kind", "", "", 0, {}, complete=True))
    with pytest.raises(FleetError, match="another fleet is up here: 'micro'") as error:
        lifecycle.up(fleets.three_clusters(), folder, silent)
    assert "fleet down" in error.value.hint
