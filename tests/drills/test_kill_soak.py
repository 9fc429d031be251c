"""kill -9 of every part of a drill at seeded random moments: nothing of ours is left, and no verdict is a false pass.

`make test` does a handful, `make soak` 40 moments of the harness and 10 each of load, allocator, gateway and store.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from drills.engine.commands.main import main
from drills.engine.safety.journal import read_journal
from drills.engine.safety.lock import Locks
from fleet.environments.local import black_hole
from history.errors import UsageError
from history.op import LOAD_STOP, RUN_END
from history.reader import Run, read_run
from history.rundir import RunDirectory
from tests.drills.harness import MICRO, Blackstart, only_run

pytestmark = pytest.mark.drill

WHOLE_RUN_S = 9.5
"""A micro-drill lasts about this long from the first import to the last page."""
SERVICES = {"allocator": "allocator", "gateway": "gateway", "store": "store-weights"}
"""Who is killed -> how its process calls itself."""

HANDFUL = (14, 2)
"""While it starts; in the outage, zygote too; the same in a black hole; while it judges."""
HARNESS = [pytest.param(seed, marks=() if seed in HANDFUL else pytest.mark.soak) for seed in range(40)]
OTHERS = [
    pytest.param(victim, seed, marks=() if seed < 1 else pytest.mark.soak)
    for victim in ("load", *SERVICES)
    for seed in range(10)
]


def rules() -> str:
    if not black_hole.possible():
        return ""
    return subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=True).stdout


def recorded(path: Path) -> Run | None:
    """What the run recorded; None when it was killed before there was anything to judge."""
    try:
        return read_run(path)
    except UsageError:
        return None


def nothing_is_left(blackstart: Blackstart, path: Path, state: Path) -> None:
    """No process, rule, work directory, temporary file or lock; and the next run may start."""
    assert blackstart.left_behind() == []
    facts = read_journal(RunDirectory(path).journal).facts
    assert [rule for network in facts.get("networks", []) for rule in rules().splitlines() if network in rule] == []
    assert not (path / "fleet").exists()
    assert not (path / "load").exists()
    assert list(path.glob("*.part")) == []
    assert Locks(state).all() == ()
    assert Locks(state).require_free(("local",)) == ()


@pytest.mark.parametrize("seed", HARNESS)
def test_kill_9_of_the_harness(seed: int, tmp_path: Path, state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)
    drill, with_zygote = tmp_path / "micro_drill.py", seed % 3 == 1
    text = MICRO.read_text()
    if seed % 2 and black_hole.possible():
        text = text.replace('PowerLoss("cobalt")', 'PowerLoss("cobalt", signature="black-hole")')
    drill.write_text(text)
    out = tmp_path / "runs"
    blackstart = Blackstart.start("run", str(drill), "--out", str(out))
    time.sleep(rng.uniform(0.6, WHOLE_RUN_S))  # the random moment
    if with_zygote:
        for process in blackstart.processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended since
                if "fleet.environments.local.zygote" in process.cmdline() and process.ppid() == blackstart.process.pid:
                    process.suspend()  # so that it cannot clean up before its turn
                    blackstart.process.kill()
                    process.kill()
    blackstart.process.kill()
    blackstart.end()
    if not out.exists():  # killed before the run had begun
        assert main(["restore"]) == 0
        assert Locks(state).all() == ()
        assert blackstart.left_behind() == []
        return
    path = only_run(out)
    assert main(["restore", str(path)]) == 0
    nothing_is_left(blackstart, path, state)
    assert main(["restore", str(path)]) == 0  # idempotent
    if (run := recorded(path)) is not None:
        assert main(["analyze", str(path)]) in (0, 1, 2)
        verdict = json.loads((path / "result.json").read_text())["verdict"]
        ended = bool(run.history.of_kind(RUN_END))
        assert verdict == "unknown" or ended, verdict
        assert verdict != "pass" or read_journal(RunDirectory(path).journal).healed
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said


def pick(blackstart: Blackstart, victim: str) -> list[psutil.Process]:
    """The processes of the victim."""
    if victim == "load":
        return [one for one in blackstart.processes() if any("locustfile.py" in part for part in one.cmdline())]
    return [one for one in blackstart.processes() if one.name() == SERVICES[victim][:15]]


@pytest.mark.parametrize(("victim", "seed"), OTHERS)
def test_kill_9_of_a_part(victim: str, seed: int, tmp_path: Path, state: Path) -> None:
    rng = random.Random(f"{victim} {seed}")
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path))
    blackstart.wait_for("Load and probers are ready")
    time.sleep(rng.uniform(0.0, 5.5))  # the random moment
    victims = pick(blackstart, victim)
    assert victims, [process.name() for process in blackstart.processes()]
    killed_ns = time.monotonic_ns()
    for process in victims:
        process.kill()
    code, said = blackstart.end()
    assert "Traceback" not in said
    path = only_run(tmp_path)
    assert main(["restore", str(path)]) == 0
    nothing_is_left(blackstart, path, state)
    run = read_run(path)
    (stop,) = run.history.of_kind(LOAD_STOP)
    if killed_ns < stop.t_intended:
        assert code in (2, 3), said
        assert json.loads((path / "result.json").read_text())["verdict"] == "unknown"
