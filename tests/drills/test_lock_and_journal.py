"""The lock outlives its owner, the journal can be read after any cut, the ledger only grows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills.engine.nouns import BlastRadius
from drills.engine.safety import ledger
from drills.engine.safety.custody import Custody
from drills.engine.safety.journal import Journal, JournalState, read_journal
from drills.engine.safety.ledger import Entry, Ledger, Webhook, read_ledger, webhook_url
from drills.engine.safety.lock import Lock, Locks, state_dir
from drills.engine.safety.owner import Owner
from history.errors import FleetError, RecordingError, Refused, UsageError
from history.records import FaultMark
from history.rundir import RunDirectory, pretty_json, write_atomic
from loadgen.process import Child

ME = Owner.of(os.getpid())


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Another live process."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def take(locks: Locks, run: Path, *targets: str) -> tuple[str, ...]:
    return locks.take(targets or ("local",), run=run, drill="d", environment="local", facts={"fleet_id": "f"})


def disown(state: Path, owner: Owner) -> None:
    """Gives every lock to another owner."""
    for path in (state / "locks").glob("*.json"):
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
        path.write_bytes(pretty_json(replace(lock, owner=owner)))


def dead() -> Owner:
    """A process that has been."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner.of(process.pid)
    process.communicate()
    return owner


def test_two_drills_never_hold_the_same_target(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    take(locks, tmp_path / "a")
    with pytest.raises(Refused, match=r"another drill holds local.*a\)") as caught:
        take(locks, tmp_path / "b")
    assert "blackstart watch" in caught.value.hint
    assert "touch" not in caught.value.hint, "no drill runs there"
    (tmp_path / "a").mkdir()
    RunDirectory(tmp_path / "a").journal.touch()
    with pytest.raises(Refused) as caught:
        take(locks, tmp_path / "b")
    assert f"touch {tmp_path / 'a' / 'stop'}`" in caught.value.hint
    take(locks, tmp_path / "b", "kind-amber")  # other targets are free
    assert locks.release(tmp_path / "a") == ("local",)
    assert locks.release(tmp_path / "a") == ()
    take(locks, tmp_path / "c")


def test_all_targets_or_none(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    take(locks, tmp_path / "a", "kind-cobalt")
    with pytest.raises(Refused):
        take(locks, tmp_path / "b", "kind-amber", "kind-cobalt")
    assert {lock.target for lock in locks.all()} == {"kind-cobalt"}


def test_an_unhealed_run_refuses_the_next_one_and_names_the_next_step(tmp_path: Path) -> None:
    locks, run = Locks(tmp_path), tmp_path / "run"
    run.mkdir()
    take(locks, run)
    disown(tmp_path, dead())
    for entries in ((), ("begin",), ("intent",)):  # died before its journal, before its fleet, in the middle
        for entry in entries:
            Journal(run / "journal.jsonl").write(entry, environment="local")
        with pytest.raises(Refused, match="died and was not healed") as caught:
            take(locks, tmp_path / "next")
        assert f"blackstart restore {run}" in caught.value.hint


def test_a_lock_whose_owner_died_after_everything_was_healed_is_taken_over_with_a_note(tmp_path: Path) -> None:
    locks, run = Locks(tmp_path), tmp_path / "run"
    run.mkdir()
    take(locks, run)
    disown(tmp_path, dead())
    for entry in ("begin", "end"):
        Journal(run / "journal.jsonl").write(entry)
    (note,) = take(locks, tmp_path / "next")
    assert "its owner died after everything was healed" in note
    assert [lock.run for lock in locks.all()] == [str(tmp_path / "next")]


def test_an_owner_is_its_number_its_start_and_its_boot(stranger: subprocess.Popen[bytes]) -> None:
    owner = Owner.of(stranger.pid)
    assert owner.alive
    assert not replace(owner, started=owner.started + 1).alive  # the number was given to somebody else
    assert not replace(owner, boot_id="another").alive
    stranger.send_signal(signal.SIGSTOP)
    assert owner.alive  # stopped is not dead
    stranger.kill()
    os.waitid(os.P_PID, stranger.pid, os.WEXITED | os.WNOWAIT)
    assert not owner.alive  # a zombie is dead
    stranger.wait()
    assert not owner.alive


def test_a_damaged_lock_refuses_and_a_full_or_forbidden_place_is_said(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    take(locks, tmp_path / "a")
    (tmp_path / "locks" / "local.json").write_bytes(b"{")
    with pytest.raises(Refused, match="cannot be read"):
        take(locks, tmp_path / "b")
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="state directory"):
        take(Locks(tmp_path / "file"), tmp_path / "b")


def test_only_who_took_a_lock_lets_go_of_it(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    take(locks, tmp_path / "a")
    disown(tmp_path, replace(ME, started=1))  # another process, of the same second and so of the same run directory
    take(locks, tmp_path / "a", "kind-x")
    assert locks.release(tmp_path / "a") == ("kind-x",)
    assert [lock.target for lock in locks.all()] == ["local"]


def test_a_lock_that_cannot_be_read_blinds_nobody(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    take(locks, tmp_path / "a", "local", "kind-x")
    (tmp_path / "locks" / "kind-x.json").write_bytes(b"{")
    assert [lock.target for lock in locks.of_run(tmp_path / "a")] == ["local"]
    (error,) = locks.unreadable()
    assert "kind-x.json cannot be read" in error.message
    with pytest.raises(Refused):
        locks.of_environment("kind")
    assert locks.release(tmp_path / "a") == ("local",)


def test_what_a_kill_left_of_a_lock_half_written_is_removed(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    take(locks, tmp_path / "a")
    (tmp_path / "locks" / "kind-x.json.part").touch()
    locks.release(tmp_path / "a")
    take(locks, tmp_path / "b")
    locks.release(tmp_path / "b")
    assert list((tmp_path / "locks").iterdir()) == []


def test_all_targets_are_taken_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        if "kind-b" in path.name:
            raise RecordingError("no space left", hint="free space")
        write_atomic(path, data)

    monkeypatch.setattr("drills.engine.safety.lock.write_atomic", full)
    locks = Locks(tmp_path)
    with pytest.raises(RecordingError):
        locks.take(("kind-a", "kind-b"), run=tmp_path, drill="d", environment="kind", facts={})
    assert locks.all() == ()


def test_nobody_waits_for_ever_for_one_who_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drills.engine.safety.lock.BUSY_S", 0.1)
    locks, other = Locks(tmp_path), Locks(tmp_path)
    take(locks, tmp_path / "a")
    with other.mutex():
        with pytest.raises(Refused, match="has been healing"):
            take(Locks(tmp_path), tmp_path / "b")
        assert locks.release(tmp_path / "a")  # what one holds oneself is let go without waiting


def test_paths_are_quoted_in_hints_and_must_be_text(tmp_path: Path) -> None:
    locks, run = Locks(tmp_path), tmp_path / "my runs"
    take(locks, run)
    disown(tmp_path, dead())
    with pytest.raises(Refused) as caught:
        take(locks, tmp_path / "b")
    assert f"blackstart restore '{run}'" in caught.value.hint
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        take(locks, tmp_path / "\udcff", "kind-x")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"BLACKSTART_STATE": "/s", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/s"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/blackstart"),
        ({"HOME": "/h"}, "/h/.local/state/blackstart"),
        ({"BLACKSTART_STATE": "here"}, f"{Path.cwd()}/here"),
    ],
)
def test_the_state_directory(environ: dict[str, str], expected: str) -> None:
    assert state_dir(environ) == Path(expected)


def full_journal(path: Path) -> bytes:
    journal = Journal(path)
    journal.write("begin", owner=ME, environment="local", facts={"fleet_id": "f", "work_dir": "/w"})
    journal.write("fleet", environment="local", facts={"networks": ["127.70.1.0/24"]})
    journal.write("intent", cluster="cobalt", target="cobalt", fault="PowerLoss")
    journal.write("outcome", cluster="cobalt", target="cobalt", injected=True)
    journal.write("outcome", target="cobalt", healed=True)
    journal.write("end")
    return path.read_bytes()


def test_a_journal_says_what_is_open(tmp_path: Path) -> None:
    lines = full_journal(tmp_path / "j").splitlines(keepends=True)
    facts: dict[str, Any] = {"fleet_id": "f", "work_dir": "/w"}
    networks = {"networks": ["127.70.1.0/24"]}
    more, said = facts | networks, (("local", facts), ("local", networks))
    for count, expected in enumerate(
        [
            JournalState(),
            JournalState(True, False, facts, (), ME, said[:1]),
            JournalState(True, False, more, (), ME, said),
            JournalState(True, False, more, ("cobalt",), ME, said),
            JournalState(True, False, more, ("cobalt",), ME, said),
            JournalState(True, False, more, (), ME, said),
            JournalState(True, True, more, (), ME, said),
        ]
    ):
        (tmp_path / "cut").write_bytes(b"".join(lines[:count]))
        assert read_journal(tmp_path / "cut") == expected
    assert read_journal(tmp_path / "absent") == JournalState()


@settings(deadline=None)  # each entry waits for the disk
@given(cut=st.integers(0, 2_000), flips=st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=4))
def test_no_damage_to_a_journal_raises_and_a_cut_never_heals(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    data = full_journal(path)
    path.write_bytes(data[: min(cut, len(data) - 2)])
    assert not read_journal(path).healed
    damaged = bytearray(data)
    for at, value in flips:
        damaged[at % len(damaged)] = value
    path.write_bytes(damaged)
    read_journal(path)


def test_an_entry_after_a_cut_line_stands_apart_from_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(full_journal(path)[:-5])
    Journal(path).write("restored")
    assert read_journal(path).healed


def test_the_ledger_says_who_did_what_to_which_cluster_and_when(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "new", Entry(drill="d", run="/r", command_line=("blackstart", "run", "d")))
    book.write("inject", "begun", clusters=("cobalt",), text="cobalt lost power")
    with book.path.open("ab") as file:
        file.write(b'{"cut')
    book.write("end", "pass")
    inject, end = read_ledger(tmp_path / "new")
    assert (inject.operation, inject.clusters, inject.outcome) == ("inject", ("cobalt",), "begun")
    assert inject.user
    assert inject.host
    assert inject.when <= end.when
    assert inject.command_line == ("blackstart", "run", "d")
    assert read_ledger(tmp_path / "nothing") == ()


def custody(tmp_path: Path) -> Custody:
    """Of a run whose plan has no more than what is written into the ledger."""
    drill = SimpleNamespace(name="d", blast_radius=BlastRadius())
    plan: Any = SimpleNamespace(drill=drill, environment="local", file=SimpleNamespace(summary=""))
    (tmp_path / "run").mkdir()
    return Custody(plan, RunDirectory(tmp_path / "run"), ("blackstart", "run", "d"), {}, state=tmp_path)


def test_a_run_names_its_harness_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "start", lambda self, *command, **environ: None)
    custody(tmp_path).begin()
    owner = read_journal(tmp_path / "run" / "journal.jsonl").owner
    assert owner == ME
    assert owner.alive


def test_an_injection_has_its_outcome_in_the_ledger(tmp_path: Path) -> None:
    kept, mark = custody(tmp_path), FaultMark("PowerLoss", "cobalt", "refused", "cobalt lost power")
    with kept.injection(mark, "cobalt"):
        assert read_journal(tmp_path / "run" / "journal.jsonl").hurt == ("cobalt",)

    def fail() -> None:
        with kept.injection(mark, "cobalt"):
            raise FleetError("no power switch")

    with pytest.raises(FleetError):
        fail()
    entries = read_ledger(tmp_path)
    assert [entry.outcome for entry in entries] == ["begun", "ok", "begun", "failed"]
    assert entries[-1].text == "FleetError: no power switch"
    assert {entry.clusters for entry in entries} == {("cobalt",)}


def test_a_stage_of_a_restore_is_in_the_ledger_and_one_that_hurts_in_the_journal(tmp_path: Path) -> None:
    kept, hurt = custody(tmp_path), list[tuple[str, ...]]()
    for does in ("upgrade", "tear down"):
        with kept.stage(does, "cobalt"):
            hurt.append(read_journal(tmp_path / "run" / "journal.jsonl").hurt)
    assert hurt == [(), ("cobalt",)]
    said = [(entry.operation, entry.outcome) for entry in read_ledger(tmp_path)]
    assert said == [(f"restore: {does}", outcome) for does in ("upgrade", "tear down") for outcome in ("begun", "ok")]


def test_a_webhook_hears_everything_in_order(tmp_path: Path) -> None:
    heard: list[str] = []
    webhook = Webhook("https://h.example/secret", heard.append, lambda url, body: heard.append(body["operation"]))
    for operation in ("start", "inject", "heal", "end"):
        webhook.announce(Entry(operation=operation))
    webhook.close()
    assert heard == ["start", "inject", "heal", "end"]


def test_a_webhook_that_fails_is_told_without_its_secret_and_raises_nowhere() -> None:
    def post(url: str, body: dict[str, Any]) -> None:
        raise OSError("no route")

    failed: list[str] = []
    webhook = Webhook("https://user:pw@h.example/secret", failed.append, post)
    webhook.announce(Entry(operation="start"))
    webhook.close()
    assert failed == ["webhook h.example: start not announced: OSError"]
    silent = Webhook("", failed.append, post)
    silent.announce(Entry(operation="start"))
    silent.close()
    assert len(failed) == 1


def test_a_webhook_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_CLOSE_S", 0.05)
    failed: list[str] = []
    hang = threading.Event()

    def post(url: str, body: dict[str, Any]) -> None:
        hang.wait(60)

    webhook = Webhook("http://h.example/", failed.append, post)
    began = time.monotonic()
    webhook.announce(Entry(operation="start"))
    webhook.close()
    assert time.monotonic() - began < 5
    assert "not done in time" in failed[0]
    hang.set()


@pytest.mark.parametrize("url", ["ftp://h/x", "h.example/x", "https://", "http://[bad", "http://h:99999/x"])
def test_what_cannot_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="http or https"):
        webhook_url(url)
