"""A kind fleet that is up, on a Docker that is a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import fleets
from fleet.environments.kind import containers
from fleet.environments.kind.state import FleetState, Folder
from fleet.environments.kind.topology import topology
from tests.fleet.kind.fake_docker import FakeDocker


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "kind")
    spec = fleets.three_clusters()
    names = [name for cluster in topology(spec) for name in cluster.containers]
    folder.write(
        FleetState(
            fleet_id="f1",
            spec=spec,
            token="tell-nobody",
            node_image="n",
            serving_image="s",
            kind="kind",
            subnet="127.29.0.0/16",  # of this host alone: at the real subnet a fleet that is up would answer
            host="127.29.0.1",
            gateway_port=0,
            ports={
                "gateway": 1,
                "allocator": 2,
                "prometheus": 3,
                "store-weights": 4,
                **{f"adapter-{c.name}": 5 for c in spec.clusters},
            },
            addresses={name: f"127.29.0.{number}" for number, name in enumerate(names, 2)},
            complete=True,
        )
    )
    return folder


@pytest.fixture
def fake(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    fake = FakeDocker(str(folder.marker))
    state = folder.read()
    assert state is not None
    for cluster in state.clusters:
        for name in cluster.containers:
            fake.add(name, cluster.kind_name, state.addresses[name])
    monkeypatch.setattr(containers, "docker", fake)
    monkeypatch.setattr(containers, "ask_engine", lambda path, **_: None)
    return fake
