"""The dead man waits for the right moment; restore heals from lock and journal alone, and only what is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from drills.engine.commands.main import main
from drills.engine.safety import restore as module
from drills.engine.safety.journal import Journal, read_journal
from drills.engine.safety.ledger import Entry, Ledger, read_ledger
from drills.engine.safety.lock import Lock, Locks
from drills.engine.safety.owner import Owner
from drills.engine.safety.restore import children, restore, unhealed
from drills.engine.safety.watchdog import TRIES, watch
from fleet.environments.local.zygote import LOCK_NAME, MARKER
from history.errors import FleetError, Refused, UsageError
from history.rundir import RunDirectory
from tests.headers import header

ALIVE = Lock("local", Owner.of(os.getpid()), "/r", "d", "local", "u", "now")
DEAD = replace(ALIVE, owner=replace(ALIVE.owner, started=1))


class Scripted:
    """Locks as a script says, one entry a look; time passes only when somebody sleeps."""

    def __init__(self, *looks: Lock | None) -> None:
        self.looks, self.now, self.restored, self.failing = list(looks), 0.0, 0, 0

    def held(self) -> tuple[Lock, ...]:
        lock = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return () if lock is None else (lock,)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def restore(self) -> None:
        self.restored += 1
        if self.restored <= self.failing:
            raise FleetError("the engine does not answer")

    def run(self) -> bool:
        return watch(self.held, self.restore, after_s=10.0, clock=lambda: self.now, sleep=self.sleep)


def test_the_watchdog_ends_with_the_run() -> None:
    script = Scripted(ALIVE, ALIVE, None)
    assert script.run() is False
    assert script.restored == 0


def test_the_watchdog_restores_when_the_harness_is_dead_for_long_enough() -> None:
    script = Scripted(ALIVE, DEAD)
    assert script.run() is True
    assert script.restored == 1
    assert 10.0 <= script.now < 11.0


def test_somebody_who_comes_first_is_left_to_it() -> None:
    script = Scripted(ALIVE, *[DEAD] * 20, None)
    assert script.run() is False
    assert script.restored == 0


def test_a_restore_that_fails_is_tried_again_but_not_for_ever() -> None:
    script = Scripted(DEAD)
    script.failing = 2
    assert script.run() is True
    assert script.restored == 3
    assert script.now >= 30.0
    script = Scripted(DEAD)
    script.failing = 1_000
    with pytest.raises(FleetError):
        script.run()
    assert script.restored == TRIES


def hold(state: Path, run: Path, *, alive: bool = False) -> Locks:
    """The lock of ``run``, whose harness is dead."""
    locks = Locks(state)
    facts = {"work_dir": str(run / "fleet"), "fleet_id": f"id-of-{run.name}"}
    locks.take(("local",), run=run, drill="d", environment="local", facts=facts)
    if not alive:
        path = state / "locks" / "local.json"
        path.write_bytes(path.read_bytes().replace(b'"started": ', b'"started": 1'))
    return locks


def test_restore_ends_processes_removes_the_work_directory_and_lets_go(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    (run / "fleet").mkdir(parents=True)
    (run / "fleet" / LOCK_NAME).touch()
    (run / "header.json.part").touch()
    locks = hold(state, run)  # no journal at all: killed between lock and journal
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    environment = {**os.environ, MARKER: "id-of-run"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as of_the_fleet:
        with subprocess.Popen([*command, "loadgen.probers", str(run)], stdout=subprocess.PIPE) as prober:
            for process in (of_the_fleet, prober):  # in mid-exec they have neither command line nor environment
                assert process.stdout is not None
                assert process.stdout.readline()
            assert [process.pid for process in children(run)] == [prober.pid]
            assert [lock.run for lock in unhealed(locks)] == [str(run)]
            done = "\n".join(restore(run, state, by="test", drain_s=0.1))
        assert of_the_fleet.poll() is not None or of_the_fleet.wait(5) is not None
    assert "ended 1 processes of the fleet" in done
    assert "ended 1 processes of the harness" in done
    assert "released the lock on local" in done
    assert not (run / "fleet").exists()
    assert not (run / "header.json.part").exists()
    assert locks.all() == ()
    assert read_journal(run / "journal.jsonl").healed
    assert [(entry.operation, entry.outcome) for entry in read_ledger(state)] == [
        ("restore", "begun"),
        ("restore", "ok"),
    ]
    assert restore(run, state, by="test") == ()
    assert len(read_ledger(state)) == 2


def test_restore_works_on_half_a_journal_without_a_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fleet").mkdir(parents=True)
    Journal(run / "journal.jsonl").write("begin", environment="local", facts={"work_dir": str(run / "fleet")})
    Journal(run / "journal.jsonl").write("intent", target="cobalt")
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b'{"entry":"outcome","tar')
    done = restore(run, tmp_path / "state", by="test")
    assert done == (f"the fault on cobalt was open: removed {run / 'fleet'}",)
    assert not (run / "fleet").exists()
    assert restore(run, tmp_path / "state", by="test") == ()


def begin(run: Path, owner: Owner = DEAD.owner, environment: str = "local", **facts: object) -> Journal:
    """A run with a work directory and a journal that says that it has begun."""
    (run / "fleet").mkdir(parents=True)
    (run / "fleet" / LOCK_NAME).touch()
    journal = Journal(run / "journal.jsonl")
    journal.write("begin", owner=owner, environment=environment, facts=facts or {"work_dir": str(run / "fleet")})
    return journal


def test_restore_never_touches_a_run_whose_harness_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fleet").mkdir(parents=True)
    hold(tmp_path / "state", run, alive=True)
    with pytest.raises(Refused, match="its harness is alive") as caught:
        restore(run, tmp_path / "state", by="test")
    assert f"touch {run}/stop" in caught.value.hint
    assert (run / "fleet").exists()


def test_a_live_harness_is_known_by_its_journal_whatever_the_locks_say(tmp_path: Path) -> None:
    run = tmp_path / "run"
    journal = begin(run, ALIVE.owner)
    with pytest.raises(Refused, match=f"its harness is alive .process {os.getpid()}; it last wrote 0 s ago"):
        restore(run, tmp_path / "another state", by="test")
    assert (run / "fleet").exists()
    journal.write("end")  # it is at its pages now, or at the next run
    (run / "report.html.part").touch()
    assert restore(run, tmp_path / "another state", by="test") == ()
    assert (run / "report.html.part").exists()


def test_a_harness_that_stands_still_is_named_with_what_ends_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as harness:
        begin(run, Owner.of(harness.pid))
        harness.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, harness.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(Refused, match=f"process {harness.pid}, stopped") as caught:
            restore(run, tmp_path / "state", by="test")
        assert f"`kill -9 {harness.pid}`, then `blackstart restore {run}`" in caught.value.hint
        harness.kill()
    assert restore(run, tmp_path / "state", by="test")


def test_what_another_host_holds_is_left_to_it(tmp_path: Path) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    run.mkdir()
    locks = hold(state, run)
    path = state / "locks" / "local.json"
    path.write_bytes(path.read_bytes().replace(DEAD.owner.host.encode(), b"another-host"))
    assert unhealed(locks) == ()
    attempts: list[Callable[[], object]] = [
        lambda: locks.require_free(("local",)),
        lambda: restore(run, state, by="test"),
    ]
    for attempt in attempts:
        with pytest.raises(Refused, match="another-host") as caught:
            attempt()
        assert "held on another-host: look, and restore, there" in caught.value.hint


@pytest.fixture
def healed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    """What the environment was asked to heal; it does nothing."""
    asked: list[tuple[str, dict[str, object]]] = []

    def leftovers(environment: str, facts: dict[str, object]) -> tuple[str, ...]:
        asked.append((environment, facts))
        return ("healed",)

    monkeypatch.setattr(module, "restore_leftovers", leftovers)
    return asked


def test_an_old_healed_run_does_not_act_on_who_has_the_clusters_now(
    tmp_path: Path, healed: list[tuple[str, dict[str, object]]]
) -> None:
    old, new, locks = tmp_path / "old", tmp_path / "new", Locks(tmp_path / "state")
    journal = begin(old, environment="kind", folder="/kind", found_up=False)
    locks.take(("kind-cobalt",), run=new, drill="d", environment="kind", facts={})
    for lost in (True, False):  # killed; its lock was deleted, or stands still, on a cluster that the new one has not
        if not lost:
            locks.take(("kind-old",), run=old, drill="d", environment="kind", facts={})
            file = tmp_path / "state" / "locks" / "kind-old.json"
            file.write_bytes(file.read_bytes().replace(b'"started": ', b'"started": 1'))
        with pytest.raises(Refused, match="kind-cobalt is in other hands"):
            restore(old, tmp_path / "state", by="test")
    file.unlink()
    journal.write("end")
    assert restore(old, tmp_path / "state", by="test") == ()
    assert healed == []
    assert [lock.run for lock in locks.all()] == [str(new)]


def test_a_damaged_entry_does_not_hide_what_a_sound_one_says(
    tmp_path: Path, healed: list[tuple[str, dict[str, object]]]
) -> None:
    run = tmp_path / "run"
    journal = begin(run, work_dir="/sound", fleet_id="f")
    journal.write("fleet", environment="lobal", facts={"work_dir": "/sou.d", "networks": []})
    restore(run, tmp_path / "state", by="test")
    assert {environment for environment, _ in healed} == {"local"}
    assert {facts["work_dir"] for _, facts in healed} == {"/sound", "/sou.d", str(run / "fleet")}
    assert {facts["fleet_id"] for _, facts in healed} == {"f"}


def test_an_error_of_any_kind_means_not_healed_and_hides_no_other_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = tmp_path / "run", list[str]()
    journal = begin(run, work_dir="/sound")
    journal.write("fleet", environment="local", facts={"work_dir": "/damaged"})
    journal.write("intent", target="cobalt")

    def leftovers(_: str, facts: dict[str, str]) -> tuple[str, ...]:
        asked.append(facts["work_dir"])
        if facts["work_dir"] == "/damaged":
            raise KeyError("blackstart-cobalt-worker")
        return ()

    monkeypatch.setattr(module, "restore_leftovers", leftovers)
    with pytest.raises(FleetError, match=f"{run} is not healed: KeyError: 'blackstart-cobalt-worker'"):
        restore(run, tmp_path / "state", by="test")
    assert "/sound" in asked
    assert not read_journal(journal.path).healed
    assert read_ledger(tmp_path / "state")[-1].outcome == "failed"
    monkeypatch.setattr(module, "restore_leftovers", lambda *_: ())
    assert restore(run, tmp_path / "state", by="test") == ("the fault on cobalt was open: nothing of it is left",)


def test_a_journal_that_says_nothing_any_more_keeps_no_work_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    (run / "journal.jsonl").write_bytes(b"{")
    assert restore(run, tmp_path / "state", by="test") == (f"removed {run / 'fleet'}",)
    assert read_journal(run / "journal.jsonl").healed


@pytest.mark.parametrize("source", ["lock", "header"])
def test_lock_and_header_know_the_environment_when_the_journal_does_not(
    source: str, tmp_path: Path, healed: list[tuple[str, dict[str, object]]]
) -> None:
    run = tmp_path / "run"
    begin(run, environment="lobal")
    if source == "lock":
        hold(tmp_path / "state", run)
    else:
        RunDirectory(run).write_header(header(environment="local"))
    restore(run, tmp_path / "state", by="test")
    assert {environment for environment, _ in healed} == {"local"}


def test_a_restore_and_its_failure_are_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, state = tmp_path / "run", tmp_path / "state"
    begin(run)
    about = Entry(drill="d", run=str(run), blast_radius="at most 1", command_line=("blackstart", "run", "d"))
    Ledger(state, about).write("start", "begun")

    def fail(environment: str, facts: dict[str, object]) -> tuple[str, ...]:
        raise FleetError("no engine")

    with monkeypatch.context() as patch:
        patch.setattr(module, "restore_leftovers", fail)
        with pytest.raises(FleetError):
            restore(run, state, by="a person")
    restore(run, state, by="the watchdog", command_line=("python", "watchdog"))
    last = read_ledger(state)
    assert [entry.outcome for entry in last[1:]] == ["begun", "failed", "begun", "ok"]
    assert last[2].text == "a person: no engine"
    assert last[-1].text.startswith("the watchdog: removed ")
    assert last[-1].command_line == ("python", "watchdog")
    assert {(entry.drill, entry.blast_radius) for entry in last} == {("d", "at most 1")}


def test_restore_of_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no lock names it"):
        restore(tmp_path, tmp_path / "state", by="test")


def test_the_command_heals_all_that_is_unhealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLACKSTART_STATE", str(tmp_path / "state"))
    assert main(["restore"]) == 0
    assert f"No run is unhealed: looked into {tmp_path / 'state'}, which does not exist" in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    hold(tmp_path / "state", tmp_path / "run")
    assert main(["watch"]) == 0
    assert "it was not healed" in capsys.readouterr().out
    assert main(["restore"]) == 0
    said = capsys.readouterr().out
    assert "released the lock on local" in said
    assert "Next: blackstart analyze" not in said  # nothing was recorded
    (tmp_path / "run" / "header.json").write_text("{}")
    assert main(["restore", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "nothing was left" in said
    assert "Next: blackstart analyze " in said
    assert main(["watch"]) == 0
    assert "restore: ok" in capsys.readouterr().out  # the ledger


def test_one_run_that_cannot_be_healed_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("BLACKSTART_STATE", str(state))
    hold(state, tmp_path / "a").take(("kind-x",), run=tmp_path / "b", drill="d", environment="nowhere", facts={})
    for path in (state / "locks").glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b'"started": ', b'"started": 1'))
    assert main(["restore"]) == 4
    said = capsys.readouterr()
    assert "✗ unknown environment 'nowhere'" in said.out
    assert "released the lock on local" in said.out
    assert "unknown environment 'nowhere'" in said.err


def test_a_lock_that_cannot_be_read_is_told_and_keeps_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("BLACKSTART_STATE", str(state))
    locks = hold(state, tmp_path / "a")
    (state / "locks" / "kind-x.json").write_bytes(b"{")
    assert main(["watch"]) == 0
    assert "kind-x.json cannot be read" in capsys.readouterr().out
    assert main(["restore"]) == 4
    said = capsys.readouterr()
    assert "released the lock on local" in said.out
    assert "kind-x.json cannot be read" in said.err
    assert locks.require_free(("local",)) == ()
    with pytest.raises(Refused, match="cannot be read"):
        locks.require_free(("kind-x",))
