"""Nothing of a local fleet outlives it, whoever is killed: the harness, the zygote, both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from fleet.environments.local import black_hole
from fleet.environments.local.fleet import marked, sweep
from fleet.environments.local.zygote import LOCK_NAME

HARNESS = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from fleet import fleets
    from fleet.environments.local.fleet import LocalFleet
    fleet = LocalFleet(fleets.micro(), work_dir=Path(sys.argv[1]))
    fleet.start(lambda _: None)
    if sys.argv[2] == "harness in a black hole":
        fleet.clusters[1].power_off("black-hole")
        fleet.clusters[2].freeze()
    print(fleet.fleet_id, fleet._zygote.pid, flush=True)
    sys.stdin.read()
    """
)


def until(check: Callable[[], bool], limit_s: float = 8.0) -> bool:
    return Retrying(
        stop=stop_after_delay(limit_s),
        wait=wait_fixed(0.02),
        retry=retry_if_result(lambda result: not result),
        retry_error_callback=lambda _: False,
    )(check)


def rules() -> str:
    """The firewall's rules; "" where they cannot be read."""
    if not black_hole.possible():
        return ""
    return subprocess.run(["iptables", "-w", "-S", "INPUT"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("victim", ["harness", "harness in a black hole", "zygote", "both"])
def test_nothing_is_left_after_kill_9(victim: str, tmp_path: Path) -> None:
    work_dir = tmp_path / "fleet"
    if "black hole" in victim and not black_hole.possible():
        pytest.skip("needs root, Linux and iptables")
    command = [sys.executable, "-c", HARNESS, str(work_dir), victim]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        fleet_id, zygote = harness.stdout.readline().split()
        try:
            assert len(marked(fleet_id)) >= 2 * 3 + 3 + 3  # two clusters at least, three replicas, what is outside
            assert ("blackstart" in rules()) == ("black hole" in victim)
            assert work_dir.is_dir()
            if victim != "zygote":
                harness.kill()
            if victim in ("zygote", "both"):
                os.kill(int(zygote), signal.SIGKILL)
            assert until(lambda: marked(fleet_id) == []), marked(fleet_id)
            if "harness" in victim:
                assert until(lambda: not work_dir.exists())
                assert until(lambda: "blackstart" not in rules())
                assert until(lambda: not psutil.pid_exists(int(zygote)))
        finally:
            harness.kill()
            for process in marked(fleet_id):
                process.kill()


def test_a_directory_whose_owner_is_dead_is_swept_and_no_other(tmp_path: Path) -> None:
    dead, alive, foreign = tmp_path / "blackstart-dead", tmp_path / "blackstart-alive", tmp_path / "other-dead"
    for path in (dead, alive, foreign):
        path.mkdir()
        (path / LOCK_NAME).touch()
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(alive / LOCK_NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        sweep(tmp_path)
        owner.communicate("")
    assert (dead.exists(), alive.exists(), foreign.exists()) == (False, True, True)
