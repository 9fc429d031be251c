"""What a run on a kind fleet left is healed or taken away, or it is said that it is not."""

from __future__ import annotations

import json
import os

import pytest

from fleet import fleets
from fleet.environments.kind import containers, faults, hosting
from fleet.environments.kind.fleet import KindFleet
from fleet.environments.kind.leftovers import facts, restore
from fleet.environments.kind.state import Folder
from fleet.environments.kind.topology import topology
from fleet.environments.local import stores
from fleet.environments.local.ask import Answer
from history.errors import FleetError
from history.records import Signal
from tests.fleet.kind.fake_docker import FakeDocker


def test_leftovers_of_a_fleet_that_was_up_are_healed_and_it_stays(folder: Folder, fake: FakeDocker) -> None:
    told = json.loads(json.dumps(facts(folder, True, "f1")))
    assert restore(told) == (), "nothing was left"
    fake("kill", *topology(fleets.three_clusters())[1].containers)
    fake("pause", "blackstart-jade-worker")
    fake.rules.add("blackstart-amber-worker")
    done = restore(told)
    assert any("cobalt started" in line for line in done)
    assert any("jade thawed" in line for line in done)
    assert any("amber-worker connected" in line for line in done)
    assert {box["State"]["Status"] for box in fake.boxes.values()} == {"running"}
    assert fake.rules == set()


def test_leftovers_of_a_fleet_that_the_run_made_go_away(folder: Folder, fake: FakeDocker) -> None:
    assert restore(facts(folder, False, "f1"))
    assert fake.boxes == {}
    assert restore(facts(folder, False, "f1")) == ()


def test_a_fleet_that_is_gone_took_its_faults_along_unless_its_containers_stand(
    folder: Folder, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.file.unlink()
    with pytest.raises(FleetError, match="9 containers of it stand"):
        restore(facts(folder, True, "f1"))
    fake.boxes.clear()
    assert restore(facts(folder, True, "f1")) == (f"the fleet in {folder.root} is gone, and what was hurt with it",)
    monkeypatch.setenv("BLACKSTART_STATE", str(folder.root.parent / "elsewhere"))
    with pytest.raises(FleetError, match="nothing says which fleet"):
        restore({})


def test_without_facts_the_fleet_of_this_user_is_healed_and_stays(
    folder: Folder, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLACKSTART_STATE", str(folder.root.parent))
    fake.rules.add("blackstart-amber-worker")
    assert restore({}) == ("blackstart-amber-worker connected again",)
    assert len(fake.boxes) == 9


def test_a_node_that_takes_no_commands_is_not_said_to_be_healed_and_the_others_are(
    folder: Folder, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf, tries = {"blackstart-amber-worker"}, list[str]()
    told = fake._exec

    def execute(name: str, script: str) -> str:
        tries.append(name)
        if name in deaf:
            raise FleetError("docker exec took longer than 10 s")
        return told(name, script)

    monkeypatch.setattr(fake, "_exec", execute)
    monkeypatch.setattr(containers, "PAUSE_S", 0.0)
    monkeypatch.setattr(containers, "TRY_S", 0.05)
    fake.rules |= {"blackstart-amber-worker", "blackstart-jade-worker"}
    with pytest.raises(FleetError, match="docker exec"):
        restore(facts(folder, True, "f1"))
    assert tries.count("blackstart-amber-worker") > 1
    assert fake.rules == {"blackstart-amber-worker"}
    deaf.clear()
    assert restore(facts(folder, True, "f1")) == ("blackstart-amber-worker connected again",)


def test_an_api_server_that_was_taken_away_is_put_back_and_told(
    folder: Folder, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended: list[str] = []

    def execute(name: str, script: str) -> str:
        if script != faults.MEND_API or name in mended:
            return ""
        mended.append(name)
        return "mended\n"

    monkeypatch.setattr(fake, "_exec", execute)
    done = restore(facts(folder, True, "f1"))
    assert done[0] == "blackstart-amber-control-plane has its API server again"
    assert len(done) == len(mended) == 3
    assert restore(facts(folder, True, "f1")) == ()


def test_weight_stores_are_mended_or_it_is_not_healed(
    folder: Folder, fake: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = folder.change(host_pid=os.getpid(), host_started=hosting.started(os.getpid()))
    store, deaf = state.spec.stores[0], False
    now = {"factor": 0.1, "corrupt": False, "egress_bytes_s": store.egress_bytes_s * 0.1}

    def ask(url: str, *, method: str = "GET", **_: object) -> Answer:
        assert url.startswith("http://127.29.0.1:4/fault")
        if deaf:
            return Answer(url, "no-answer")
        if method == "POST":
            now.update(factor=1.0, egress_bytes_s=float(store.egress_bytes_s))
        return Answer(url, "answered", 200, dict(now))

    monkeypatch.setattr(stores, "ask", ask)
    monkeypatch.setattr(stores.StoreFaults, "_sample", lambda *_: Signal("store sends", True, "a sound object"))
    monkeypatch.setattr(containers, "TRY_S", 0.0)
    assert restore(facts(folder, True, "f1")) == ("weight store weights mended",)
    assert restore(facts(folder, True, "f1")) == ()
    deaf = True
    with pytest.raises(FleetError, match="did not take the fault"):
        restore(facts(folder, True, "f1"))
    monkeypatch.setattr(hosting, "died", lambda *_: ("store-weights: ended with -9",))
    assert restore(facts(folder, True, "f1")) == (), "one that is started anew has no fault"


def test_a_run_that_made_no_fleet_takes_none_away(folder: Folder, fake: FakeDocker) -> None:
    fleet = KindFleet(fleets.micro(), folder=folder)
    assert restore(fleet.leftovers()) == (f"left alone the fleet in {folder.root}: it is not this run's",)
    with pytest.raises(FleetError, match="another fleet is up here"):
        fleet.start(lambda _: None)
    fleet.stop()
    assert folder.file.exists()
    assert len(fake.boxes) == 9


def test_a_fleet_that_changed_since_the_plan_is_not_used(folder: Folder, fake: FakeDocker) -> None:
    planned = KindFleet(fleets.three_clusters(), folder=folder)
    folder.change(fleet_id="f2")
    with pytest.raises(FleetError, match="not the one"):
        planned.start(lambda _: None)
    assert fake.calls == []


def test_a_fleet_that_the_run_made_goes_with_it(folder: Folder, fake: FakeDocker) -> None:
    folder.change(complete=False)
    fleet = KindFleet(fleets.three_clusters(), folder=folder)
    fleet.stop()
    assert len(fake.boxes) == 9, "what another run made half stays"
    folder.change(fleet_id=fleet.leftovers()["fleet_id"])
    fleet.stop()
    assert fake.boxes == {}
