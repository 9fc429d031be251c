"""What doctor makes of what it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import checkup
from fleet.environments.kind import supplies
from history.errors import FleetError


def test_docker_without_permission_has_another_remedy_than_no_docker() -> None:
    denied = checkup.docker("", "permission denied while trying to connect to the Docker daemon socket")
    assert not denied.ok
    assert "usermod" in denied.mend
    absent = checkup.docker("", "no docker on the PATH")
    assert not absent.ok
    assert "make docker-engine" in absent.mend
    assert checkup.docker("27.0", "").ok


def test_kind_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "make kind-images" in checkup.kind_program(None, supplies.check_kind).mend
    monkeypatch.setattr(supplies, "kind_version", lambda path: "0.11.1")
    old = checkup.kind_program("/usr/bin/kind", supplies.check_kind)
    assert not old.ok
    assert "0.11.1" in old.seen
    assert "0.24" in old.seen
    monkeypatch.setattr(supplies, "kind_version", lambda path: "0.33.0")
    assert checkup.kind_program("/usr/bin/kind", supplies.check_kind).ok
    monkeypatch.setattr(supplies, "kind_version", lambda path: "")
    with pytest.raises(FleetError, match="no version"):
        supplies.check_kind("/usr/bin/kind")


@pytest.mark.parametrize(
    ("v2", "image", "ok"),
    [
        (False, "kindest/node:v1.35.0", False),
        (False, "kindest/node:v2.0.1", False),
        (False, "localhost/blackstart/node:v1.34.4-64094891d2925f78", True),
        (False, supplies.PUBLISHED, True),
        (False, "somebody/node:latest", True),  # nothing is known of it
        (True, "kindest/node:v1.35.0", True),
    ],
)
def test_cgroup_v1_needs_an_old_enough_node_image(
    v2: bool, image: str, ok: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(supplies, "V2", tmp_path if v2 else tmp_path / "none")
    finding = checkup.cgroups(image)
    assert finding.ok is ok
    assert image in finding.seen
    assert ok or supplies.PUBLISHED in finding.mend


def test_limits() -> None:
    few = checkup.inotify(128)
    assert not few.ok
    assert "sysctl" in few.mend
    assert checkup.inotify(512).ok
    assert not checkup.memory("kind", 1e6).ok
    assert checkup.memory("local", 0.0).ok


def test_every_environment_is_looked_at() -> None:
    found = checkup.findings()
    assert {one.environment for one in found} == {"local", "kind"}
    assert all(one.mend for one in found if not one.ok), "whatever is missing has a remedy"
