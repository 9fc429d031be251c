"""The Docker engine of our own: its command line, its shim, and what is taken out of the packet filter after it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest

from fleet.environments.kind.offline import docker, engine
from fleet.environments.kind.offline.packet_filter import removals
from fleet.environments.kind.offline.paths import Image
from history.errors import FleetError

BEFORE = """# Generated
*filter
:INPUT ACCEPT [3:180]
:FORWARD ACCEPT [0:0]
:OURS - [0:0]
-A INPUT -i br-aaaaaaaaaaaa -j ACCEPT
-A FORWARD -j OURS
COMMIT
"""
AFTER = """*filter
:INPUT ACCEPT [9:980]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:OURS - [0:0]
:LATER - [0:0]
-A INPUT -i br-aaaaaaaaaaaa -j ACCEPT
-A INPUT -s 172.18.0.9/32 -d 10.1.1.1/32 -j DROP
-A FORWARD -j DOCKER-USER
-A FORWARD -o br-0123456789ab -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j OURS
-A FORWARD -j LATER
-A DOCKER -d 172.18.0.2/32 ! -i br-0123456789ab -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.18.0.0/16 ! -o br-0123456789ab -j MASQUERADE
-A POSTROUTING -s 172.18.0.2/32 -d 172.18.0.2/32 -p tcp -m tcp --dport 6443 -j MASQUERADE
-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE
COMMIT
"""


def test_exactly_the_engines_lines_are_taken_out_of_the_packet_filter() -> None:
    done = removals(BEFORE, AFTER, bridges=["br-0123456789ab"], subnets=[ip_network("172.18.0.0/16")])
    assert [" ".join(words) for words in done] == [
        "-t filter -P FORWARD ACCEPT",
        "-t filter -D FORWARD -j DOCKER-USER",
        "-t filter -D FORWARD -o br-0123456789ab -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -D POSTROUTING -s 172.18.0.0/16 ! -o br-0123456789ab -j MASQUERADE",
        "-t nat -D POSTROUTING -s 172.18.0.2/32 -d 172.18.0.2/32 -p tcp -m tcp --dport 6443 -j MASQUERADE",
        "-t filter -F DOCKER",
        "-t filter -F DOCKER-USER",
        "-t nat -F DOCKER",
        "-t filter -X DOCKER",
        "-t filter -X DOCKER-USER",
        "-t nat -X DOCKER",
    ]


def test_a_packet_filter_that_did_not_change_is_left_alone() -> None:
    assert removals(AFTER, AFTER, bridges=["br-0123456789ab"], subnets=[ip_network("172.18.0.0/16")]) == []


def test_the_shim_is_the_default_runtime_only_where_the_capability_is_missing(tmp_path: Path) -> None:
    plain = engine.engine_command(tmp_path / "data", tmp_path / "run", shim=None)
    assert not [word for word in plain if "runtime" in word]
    with_shim = engine.engine_command(tmp_path / "data", tmp_path / "run", shim=engine.SHIM)
    assert with_shim[-2:] == [f"--add-runtime=shim={engine.SHIM}", "--default-runtime=shim"]
    assert os.access(engine.SHIM, os.X_OK)


@pytest.mark.parametrize(("mask", "may"), [("000001ffffffffff", True), ("000001fffeffffff", False)])
def test_the_capability_is_read_from_the_process(tmp_path: Path, mask: str, may: bool) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask}\n")
    assert engine.may_raise_limits(status) is may


@pytest.mark.parametrize(
    ("bridge", "made"),
    [
        ("docker0", True),
        ("br-0123456789ab", True),
        ("br-lan", False),
        ("0123456789ab", False),
        ("br-0123456789xy", False),
    ],
)
def test_only_bridges_with_dockers_names_are_deleted(bridge: str, made: bool) -> None:
    assert engine.docker_made(bridge) is made


def test_a_pid_that_another_process_has_by_now_is_not_ours() -> None:
    state = state_of(os.getpid(), engine.born(os.getpid()))
    assert engine.alive(state)
    assert not engine.alive(state_of(os.getpid(), "1"))
    assert not engine.alive(state_of(0, ""))


def state_of(pid: int, born: str) -> engine.State:
    return engine.State(pid, born, settings={}, bridges=[], filters={}, cgroups=[])


def shim(folder: Path, *words: str) -> list[str]:
    """Run the shim with a runc that prints its arguments; what it printed."""
    runc = folder / "runc"
    runc.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    runc.chmod(0o755)
    env = {**os.environ, "BLACKSTART_RUNC": str(runc)}
    return subprocess.run(
        [engine.SHIM, *words], env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()


PROCESS = {
    "args": ["sh", "a b"],
    "capabilities": {"bounding": ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"], "effective": ["CAP_SYS_RESOURCE"]},
    "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576}],
    "oomScoreAdj": -998,
}
ALLOWED = {"args": ["sh", "a b"], "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": []}, "oomScoreAdj": 0}


@pytest.mark.skipif(not shutil.which("jq"), reason="the shim needs jq")
@pytest.mark.parametrize("form", [["--bundle", "{}"], ["--bundle={}"], ["-b", "{}"]])
def test_the_shim_takes_out_of_a_bundle_what_such_a_root_may_not_ask_for(tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"process": PROCESS, "hostname": "x"}))
    words = ["--root", "/r", "create", *[word.format(tmp_path) for word in form], "name"]
    assert shim(tmp_path, *words) == words
    assert json.loads((tmp_path / "config.json").read_text()) == {"process": ALLOWED, "hostname": "x"}


@pytest.mark.skipif(not shutil.which("jq"), reason="the shim needs jq")
def test_the_shim_does_the_same_for_a_process_that_joins_a_container(tmp_path: Path) -> None:
    (tmp_path / "process.json").write_text(json.dumps(PROCESS))
    shim(tmp_path, "exec", "--process", str(tmp_path / "process.json"), "name")
    assert json.loads((tmp_path / "process.json").read_text()) == ALLOWED


def test_the_shim_leaves_other_calls_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not even json")
    assert shim(tmp_path, "delete", "--force", "name") == ["delete", "--force", "name"]


@pytest.mark.parametrize(
    ("script", "why", "mended"),
    [
        ("echo 'permission denied on the socket' >&2; exit 1", "permission denied on the socket", "usermod"),
        ("exit 1", "it gives no reason", "make docker-engine"),
    ],
)
def test_no_engine_is_an_error_with_the_clients_reason_and_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str, mended: str
) -> None:
    fake_docker(tmp_path, monkeypatch, script)
    with pytest.raises(FleetError, match=f"no Docker engine answers: {why}") as caught:
        docker.check_engine()
    assert mended in caught.value.hint


def test_an_image_of_the_same_name_with_another_content_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_docker(tmp_path, monkeypatch, "echo 0123")
    image = Image("localhost/blackstart/node:x", tmp_path / "image.tar", "0123")
    assert docker.has(image)
    assert not docker.has(Image(image.name, image.archive, "4567"))


def test_an_archive_that_docker_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path, monkeypatch, "echo 'no space left on device' >&2; exit 1")
    with pytest.raises(FleetError, match=r"image\.tar: no space left on device"):
        docker.load(Image("localhost/blackstart/node:x", tmp_path / "image.tar", "0123"))


def test_a_node_gets_the_top_of_the_serving_image_on_its_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "upper.tar").write_text("top layer")
    image = Image("localhost/blackstart/serving:x", tmp_path / "image.tar", "0123")
    fake_docker(tmp_path, monkeypatch, f'echo "$@" >{tmp_path}/said; cat >>{tmp_path}/said')
    docker.hand_to("c1-worker", image)
    assert (
        tmp_path / "said"
    ).read_text() == "exec --interactive c1-worker ctr --namespace k8s.io images import -\ntop layer"
    fake_docker(tmp_path, monkeypatch, "echo 'no such container' >&2; exit 1")
    with pytest.raises(FleetError, match=r"c1-worker did not take localhost/blackstart/serving:x: no such container"):
        docker.hand_to("c1-worker", image)


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A docker client that does what the script says, first on the PATH."""
    client = folder / "docker"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
