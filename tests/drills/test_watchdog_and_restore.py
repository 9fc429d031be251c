"""The dead man waits for the right moment; restore heals from lock and journal alone, and only what is dead."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from drills.engine.commands.main import main
from drills.engine.safety.journal import Journal, read_journal
from drills.engine.safety.ledger import read_ledger
from drills.engine.safety.lock import Lock, Locks, Owner
from drills.engine.safety.restore import children, restore, unhealed
from drills.engine.safety.watchdog import watch
from fleet.environments.local.zygote import LOCK_NAME, MARKER
from history.errors import Refused, UsageError

ALIVE = Lock("local", Owner.of(os.getpid()), "/r", "d", "local", "u", "h", "now")
DEAD = replace(ALIVE, owner=replace(ALIVE.owner, started=1))


class Scripted:
    """Locks as a script says, one entry a look; time passes only when somebody sleeps."""

    def __init__(self, *looks: Lock | None) -> None:
        self.looks, self.now, self.restored = list(looks), 0.0, 0

    def held(self) -> tuple[Lock, ...]:
        lock = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return () if lock is None else (lock,)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def restore(self) -> None:
        self.restored += 1

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
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env={**os.environ, MARKER: "id-of-run"}) as of_the_fleet:
        with subprocess.Popen([*command, "loadgen.probers", str(run)]) as prober:
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
    assert [entry.operation for entry in read_ledger(state)] == ["restore"]
    assert restore(run, state, by="test") == ()
    assert len(read_ledger(state)) == 1


def test_restore_works_on_half_a_journal_without_a_lock(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fleet").mkdir(parents=True)
    Journal(run / "journal.jsonl").write("begin", environment="local", facts={"work_dir": str(run / "fleet")})
    Journal(run / "journal.jsonl").write("intent", target="cobalt")
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b'{"entry":"outcome","tar')
    done = restore(run, tmp_path / "state", by="test")
    assert "cobalt: an injected fault was open" in done
    assert not (run / "fleet").exists()
    assert restore(run, tmp_path / "state", by="test") == ()


def test_restore_never_touches_a_run_whose_harness_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "fleet").mkdir(parents=True)
    hold(tmp_path / "state", run, alive=True)
    with pytest.raises(Refused, match="its harness is alive"):
        restore(run, tmp_path / "state", by="test")
    assert (run / "fleet").exists()


def test_restore_of_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no lock names it"):
        restore(tmp_path, tmp_path / "state", by="test")


def test_the_command_heals_all_that_is_unhealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLACKSTART_STATE", str(tmp_path / "state"))
    assert main(["restore"]) == 0
    assert "No run on this machine is unhealed" in capsys.readouterr().out
    (tmp_path / "run").mkdir()
    hold(tmp_path / "state", tmp_path / "run")
    assert main(["watch"]) == 0
    assert "it was not healed" in capsys.readouterr().out
    assert main(["restore"]) == 0
    assert "released the lock on local" in capsys.readouterr().out
    assert main(["restore", str(tmp_path / "run")]) == 0
    assert "nothing was left" in capsys.readouterr().out
    assert main(["watch"]) == 0
    assert "restore: ok" in capsys.readouterr().out  # the ledger
