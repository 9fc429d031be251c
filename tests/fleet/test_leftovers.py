"""What a fleet leaves when harness and zygote die together is removed from its recorded facts alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest

from fleet.environments import lock_targets, restore_leftovers
from fleet.environments.local import addresses, black_hole, leftovers
from fleet.environments.local.leftovers import living
from fleet.environments.local.zygote import LOCK_NAME, MARKER
from fleet.fleets import micro
from history.errors import FaultError, Refused, UsageError

HARNESS = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from fleet import fleets
    from fleet.environments import facts_to_heal, open_fleet
    fleet = open_fleet("local", fleets.micro(), work_dir=Path(sys.argv[1]))
    assert facts_to_heal(fleet)["work_dir"] == sys.argv[1]
    fleet.start(lambda _: None)
    cobalt, jade = fleet.clusters[1:]
    cobalt.power_off("black-hole" if "black-hole" in cobalt.signatures else "refused")
    jade.freeze()
    print(json.dumps(facts_to_heal(fleet)), flush=True)
    sys.stdin.read()
    """
)


def rules() -> str:
    if not black_hole.possible():
        return ""
    return subprocess.run(["iptables", "-w", "-S", "INPUT"], capture_output=True, text=True, check=True).stdout


def test_everything_is_removed_after_both_were_killed(tmp_path: Path) -> None:
    work_dir = tmp_path / "fleet"
    command = [sys.executable, "-c", HARNESS, str(work_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        facts = json.loads(harness.stdout.readline())
        try:
            os.kill(facts["zygote"], signal.SIGSTOP)  # so that it cannot clean up before it is killed
            harness.kill()
            os.kill(facts["zygote"], signal.SIGKILL)
            done = restore_leftovers("local", facts)
        finally:
            harness.kill()
            for process in living(facts["fleet_id"]):
                process.kill()
    assert any("removed" in line and str(work_dir) in line for line in done)
    assert living(facts["fleet_id"]) == []
    assert not work_dir.exists()
    assert all(network not in rules() for network in facts["networks"])
    assert restore_leftovers("local", facts) == ()


def test_who_was_just_killed_does_not_hold_its_number() -> None:
    with socket.socket() as holder:
        holder.bind(("127.251.255.1", addresses.LOCK_PORT))
        threading.Timer(0.2, holder.close).start()
        assert not leftovers._in_use("127.251.2.0/24")


def sleeper(work_dir: Path, mark: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)", str(work_dir)]
    process = subprocess.Popen(command, env={**os.environ, MARKER: mark}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline()  # in mid-exec it has neither of the two yet
    return process


def test_without_the_id_the_work_directory_finds_them_and_nobody_else(tmp_path: Path) -> None:
    mine, other = sleeper(tmp_path / "a" / "fleet", "unknown"), sleeper(tmp_path / "b" / "fleet", "another")
    try:
        assert restore_leftovers("local", {"work_dir": str(tmp_path / "a" / "fleet")}) == (
            "ended 1 processes of the fleet",
        )
        assert living("unknown") == []
        assert other.poll() is None
        assert restore_leftovers("local", {}) == ()
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_a_directory_that_ends_like_the_work_directory_is_another(tmp_path: Path) -> None:
    mine, other = sleeper(Path("/b/fleet/x"), "unknown"), sleeper(tmp_path / "b" / "fleet", "another")
    flag = sleeper(tmp_path / "c", "third")
    try:
        assert [process.pid for process in living("", Path("/b/fleet"))] == [mine.pid]
        assert [process.pid for process in living("third", Path("/b/flee"))] == [flag.pid]
    finally:
        for process in (mine, other, flag):
            process.kill()
            process.wait()


@pytest.mark.parametrize("facts", [{"uid": 0}, {}])
def test_what_another_user_left_is_not_said_to_be_nothing(
    facts: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: psutil.Process) -> dict[str, str]:
        raise psutil.AccessDenied(self.pid)

    work_dir = tmp_path / "my run" / "fleet"
    with sleeper(work_dir, "unknown") as process:
        monkeypatch.setattr(psutil.Process, "environ", denied)
        monkeypatch.setattr(os, "geteuid", lambda: 1234)
        with pytest.raises(Refused) as caught:
            restore_leftovers("local", {"fleet_id": "f", "work_dir": str(work_dir), **facts})
        assert caught.value.hint == f"sudo blackstart restore '{work_dir.parent}'"
        process.kill()
    if not facts:
        assert restore_leftovers("local", {"fleet_id": "f", "work_dir": str(work_dir)}) == ()


def test_rules_that_only_root_sees_are_not_said_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"networks": ["127.70.1.0/24"]}
    monkeypatch.setattr(black_hole, "_run", lambda _: "iptables: Permission denied (you must be root)")
    assert restore_leftovers("local", facts) == (), "root without the right to it never put rules in"
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(FaultError, match="only root sees"):
        restore_leftovers("local", facts)
    assert restore_leftovers("local", facts | {"uid": 1234}) == (), "who is not root put none in"


@pytest.mark.parametrize(("lock", "removed"), [(True, True), (False, False)])
def test_only_a_fleets_own_directory_is_removed(lock: bool, removed: bool, tmp_path: Path) -> None:
    work_dir = tmp_path / "precious"
    work_dir.mkdir()
    if lock:
        (work_dir / LOCK_NAME).touch()
    restore_leftovers("local", {"work_dir": str(work_dir), "fleet_id": "none"})
    assert work_dir.exists() is not removed


@pytest.mark.parametrize(
    "said", [5, "127.70.1.0/24", ["127"], ["127.\0.1.0/24", {}], ["127.99999.1.0/24"], ["10.0.0.0/8"]]
)
def test_what_is_no_network_of_a_fleet_is_passed_over(said: object, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(black_hole, "close_hole", closed.append)
    assert restore_leftovers("local", {"networks": said}) == ()
    assert closed == []
    restore_leftovers("local", {"networks": ["127.70.1.0/24"]})
    assert closed == ["127.70.1.0/24"]


def test_environments_say_what_a_run_must_hold_alone() -> None:
    assert lock_targets("local", micro()) == ("local",)
    assert lock_targets("kind", micro()) == ("kind", "kind-amber", "kind-cobalt", "kind-jade")
    with pytest.raises(UsageError, match="unknown environment"):
        restore_leftovers("nowhere", {})
