"""What goes wrong as a local fleet starts: a clear sentence, the log, the next step, nothing left behind."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from fleet import fleets
from fleet.environments import open_fleet
from fleet.environments.local.fleet import LocalFleet, marked
from history.errors import FleetError, UsageError


def start(fleet: LocalFleet) -> FleetError:
    """Starts a fleet that cannot start; nothing of it may be left."""
    with pytest.raises(FleetError) as caught:
        fleet.start(lambda _: None)
    assert marked(fleet.fleet_id) == []
    return caught.value


def test_a_gateway_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = start(LocalFleet(fleets.micro(), work_dir=tmp_path / "work", gateway_port=port))
    assert f"127.0.0.1:{port}" in error.message
    assert "another gateway port" in error.hint
    assert not (tmp_path / "work").exists()


def test_a_model_server_that_crashes_as_it_starts(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "amber" / "access-curie-1.jsonl").mkdir(parents=True)  # where its access log should be
    error = start(LocalFleet(fleets.micro(), work_dir=tmp_path / "work", logs=logs))
    assert "replica curie-1 of model curie does not start" in error.message
    assert "exit code 1, start 3 of 3" in error.message
    assert "IsADirectoryError" in error.message
    assert "server-curie-1.out" in error.hint
    assert not (tmp_path / "work").exists()


def test_a_service_that_crashes_as_it_starts(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "gateway.log").mkdir(parents=True)
    error = start(LocalFleet(fleets.micro(), work_dir=tmp_path / "work", logs=logs))
    assert "gateway ended as it started" in error.message
    assert "IsADirectoryError" in error.message


def test_a_fleet_with_problems_is_not_started(tmp_path: Path) -> None:
    spec = replace(fleets.micro(), stores=())
    with pytest.raises(UsageError) as caught:
        LocalFleet(spec, work_dir=tmp_path / "work").start(lambda _: None)
    assert any("no weight store" in problem for problem in caught.value.problems)
    assert not (tmp_path / "work").exists()


def test_a_work_dir_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    error = start(LocalFleet(fleets.micro(), work_dir=tmp_path))
    assert "File exists" in error.message
    assert (tmp_path / "mine").exists()


def test_before_the_start_a_fleet_can_be_planned_with(tmp_path: Path) -> None:
    fleet = open_fleet("local", fleets.micro())
    assert [cluster.name for cluster in fleet.clusters] == list(fleets.CLUSTERS)
    facts = fleet.clusters[0].describe()
    assert (facts.nodes[0].gpus, facts.api_url, facts.data_urls) == (4, "", ())
    assert fleet.prometheus_url is None
    with pytest.raises(FleetError, match="not been started"):
        fleet.clusters[0].placements()
    fleet.stop()
    with pytest.raises(UsageError, match="unknown environment 'moon'"):
        open_fleet("moon", fleets.micro())
