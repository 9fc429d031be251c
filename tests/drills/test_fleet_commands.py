"""`blackstart fleet` and `blackstart doctor` where no fleet is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.engine.commands.main import main


@pytest.fixture(autouse=True)
def empty_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLACKSTART_STATE", str(tmp_path / "state"))


def test_only_kind_keeps_a_fleet_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "up", "--env", "local"]) == 4
    assert "keeps no fleet up" in capsys.readouterr().err


def test_status_and_kubeconfig_without_a_fleet_name_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "status"]) == 1
    assert "blackstart fleet up --env kind" in capsys.readouterr().out
    assert main(["fleet", "kubeconfig", "amber"]) == 3
    assert "no fleet is up" in capsys.readouterr().err


def test_an_unknown_fleet_is_a_mistake_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "up", "--fleet", "nothing"]) == 4
    assert "three-clusters" in capsys.readouterr().err


def test_doctor_names_every_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) in (0, 1)
    said = capsys.readouterr().out
    assert "local: " in said
    assert "kind: " in said
    assert "Docker: " in said
