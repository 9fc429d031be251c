"""`blackstart fleet` and `blackstart doctor` where no fleet is up."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.engine.commands.main import main
from drills.engine.safety.journal import Journal, read_journal
from drills.engine.safety.ledger import read_ledger
from drills.engine.safety.lock import Locks
from fleet.environments.kind import containers, lifecycle
from fleet.environments.kind.layout import take_ports
from fleet.environments.kind.state import FleetState, Folder
from fleet.fleets import three_clusters
from fleet.protocols import Say
from fleet.spec import FleetSpec
from history.errors import FleetError, Refused


@pytest.fixture(autouse=True)
def empty_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLACKSTART_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the fleet; there is no Docker in this."""
    found: list[str] = []

    def down(folder: Folder, say: Say) -> None:
        found.append("down")
        folder.file.unlink(missing_ok=True)
        say("3 node containers removed")

    def up(*_: object) -> None:
        raise FleetError("no Docker here")

    monkeypatch.setattr(lifecycle, "down", down)
    monkeypatch.setattr(lifecycle, "up", up)
    monkeypatch.setattr(containers, "labelled", lambda *_: ())
    return found


def a_run_dies(state: Path, run: Path) -> Locks:
    """In the middle of a cluster's rebuild, on a fleet that was up before it."""
    run.mkdir()
    facts = {"folder": str(state / "kind"), "found_up": True}
    locks = Locks(state)
    locks.take(("kind-amber", "kind-cobalt"), run=run, drill="rebuild", environment="kind", facts=facts)
    Journal(run / "journal.jsonl").write("begin", environment="kind", facts=facts)
    Journal(run / "journal.jsonl").write("intent", target="cobalt")
    for path in (state / "locks").glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b'"started": ', b'"started": 1'))
    return locks


def test_down_takes_the_lock_of_a_dead_run_with_the_fleet(
    tmp_path: Path, empty_state: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    locks = a_run_dies(empty_state, tmp_path / "run")
    spec = three_clusters()
    state = FleetState("id", spec, "token", "node", "serving", "kind", "172.29.0.0/16", "172.29.0.1", 0, {})
    Folder().write(state)
    assert main(["fleet", "up"]) == 4  # what it left is to be healed first
    assert calls == []
    assert main(["fleet", "down"]) == 0
    said = capsys.readouterr().out
    assert "3 node containers removed" in said
    assert "released the lock on kind-cobalt" in said
    assert locks.all() == ()
    assert read_journal(tmp_path / "run" / "journal.jsonl").healed
    down, ok, *restored = read_ledger(empty_state)
    assert (down.operation, down.outcome, down.clusters) == ("fleet down", "begun", ("amber", "cobalt", "jade"))
    assert (ok.outcome, ok.text) == ("ok", "3 node containers removed")
    assert ok.command_line == ("blackstart", "fleet", "down")
    assert [(entry.operation, entry.outcome) for entry in restored] == [("restore", "begun"), ("restore", "ok")]


def test_status_says_who_has_the_fleet_and_does_not_send_a_tired_person_into_a_drill(
    tmp_path: Path, empty_state: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = three_clusters()
    ports = take_ports(spec, "127.0.0.1", 0)
    Folder().write(FleetState("id", spec, "t", "n", "s", "kind", "", "127.0.0.1", 0, ports))
    locks = Locks(empty_state)
    assert main(["fleet", "status"]) == 1
    assert "Next: blackstart fleet up --env kind" in " ".join(capsys.readouterr().out.split())
    locks.take(("kind-amber", "kind-cobalt"), run=tmp_path / "run", drill="my-drill", environment="kind", facts={})
    assert main(["fleet", "status"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("In use, and perhaps hurt on purpose: drill my-drill by") == 1
    assert "Next: blackstart watch" in said
    for path in (empty_state / "locks").glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b'"started": ', b'"started": 1'))
    assert main(["fleet", "status"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Its user died: drill my-drill" in said
    assert "Next: blackstart restore" in said


def test_down_is_refused_while_a_drill_has_a_cluster_or_its_lock_cannot_be_read(
    tmp_path: Path, empty_state: Path, calls: list[str]
) -> None:
    locks = Locks(empty_state)
    locks.take(("kind-amber",), run=tmp_path, drill="d", environment="kind", facts={})
    assert main(["fleet", "down"]) == 4
    (empty_state / "locks" / "kind-amber.json").write_bytes(b"{")
    assert main(["fleet", "down"]) == 4
    assert calls == []


def test_nothing_else_has_the_fleet_while_it_comes_up(
    empty_state: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def up(*_: object) -> FleetState:
        for command in (["fleet", "up"], ["fleet", "down"]):
            assert main(command) == 4
        with pytest.raises(Refused, match="drill fleet up by"):
            Locks(empty_state).take(("kind",), run=empty_state, drill="d", environment="kind", facts={})
        return FleetState("id", three_clusters(), "t", "n", "s", "kind", "", "", 0, {"gateway": 8000})

    monkeypatch.setattr(lifecycle, "up", up)
    assert main(["fleet", "up"]) == 0
    assert calls == []
    assert Locks(empty_state).all() == ()


@pytest.mark.parametrize("command", [["restore"], ["fleet", "down"]])
def test_what_a_killed_fleet_up_left_is_taken_away(
    command: list[str], empty_state: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(spec: FleetSpec, folder: Folder, say: Say, port: int, fleet_id: str) -> FleetState:
        folder.write(FleetState(fleet_id, spec, "t", "n", "s", "kind", "", "", 0, {}))
        monkeypatch.setattr(Locks, "release", lambda *_: ())
        raise FleetError("killed here")

    monkeypatch.setattr(lifecycle, "up", killed)
    assert main(["fleet", "up"]) == 3
    for path in (empty_state / "locks").glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b'"started": ', b'"started": 1'))
    assert main(["watch"]) == 0
    assert main(["fleet", "up"]) == 4
    assert main(command) == 0
    assert calls == ["down"]
    assert Locks(empty_state).all() == ()


def test_a_fleet_that_does_not_come_up_is_in_the_ledger(empty_state: Path, calls: list[str]) -> None:
    assert main(["fleet", "up"]) == 3
    begun, failed = read_ledger(empty_state)
    assert (begun.operation, begun.outcome, begun.clusters) == ("fleet up", "begun", ("amber", "cobalt", "jade"))
    assert (failed.outcome, failed.text) == ("failed", "FleetError: no Docker here")


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
