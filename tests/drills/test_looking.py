"""Looking at runs and at what is wrong: nothing is taken for what it is not, and the next step is always named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drills.engine.commands.main import main
from drills.engine.runner.watching import Watching
from drills.engine.safety.lock import Locks

ROOT = Path(__file__).parents[2]
BAD = """
from blackstart import Baseline, Drill, OpenLoop, fleets
drill = Drill(name='bad', fleet=fleets.micro(), load=OpenLoop(rate_rps='1'), steps=[Baseline(seconds=1)], objectives=[])
"""


@pytest.mark.parametrize("command", ["analyze", "report"])
def test_a_run_whose_harness_lives_is_not_judged(
    command: str, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Locks(state).take(("local",), run=tmp_path, drill="d", environment="local", facts={})
    (tmp_path / "header.json").write_text("{}")
    assert main([command, str(tmp_path)]) == 4
    err = capsys.readouterr().err
    assert "is still running (process " in err
    assert f"Next: look at it: `blackstart watch {tmp_path}`" in err
    assert [path.name for path in tmp_path.iterdir()] == ["header.json"]


def test_who_stops_watching_stops_no_drill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Watching) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Watching, "follow", interrupted)
    (tmp_path / "drill.py").write_text("")
    assert main(["watch", str(tmp_path)]) == 130
    said = capsys.readouterr()
    assert "Stopped watching; the drill runs on." in said.out
    assert "nothing is left running" not in said.err


def test_a_folder_that_is_no_run_is_not_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path)]) == 4
    assert f"{tmp_path} is not a run directory" in capsys.readouterr().err


def test_where_nothing_was_found_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLACKSTART_STATE", str(tmp_path / "typo"))
    assert main(["watch"]) == 0
    assert f"looked into {tmp_path / 'typo'}, which does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["watch"], ["plan", "cluster-loss"], ["run", "cluster-loss"]])
def test_a_state_directory_that_can_be_none_is_an_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLACKSTART_STATE", str(tmp_path / "file" / "state"))
    assert main(arguments) == 4
    err = capsys.readouterr().err
    assert f"cannot be used: {tmp_path / 'file'} is no folder" in err
    assert "BLACKSTART_STATE=DIR" in err


def test_mistakes_are_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    assert main(["plan", str(path), "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["error"] == "bad has 3 mistakes"
    assert any("rate_rps='1': must be a number" in problem for problem in found["problems"])
    assert found["next"]


def test_leave_one_out_without_ablate_is_no_silent_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "june-2022", "--leave-one-out"]) == 4
    assert "give both" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_takes_nothing_is_a_sentence(state: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "blackstart", "list"],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "Error: the output cannot be written: No space left on device",
        "Next: free space, or send the output elsewhere",
    ]


def test_ctrl_c_while_the_rooms_are_loaded_is_one_line() -> None:
    code = (
        "import blackstart\n"
        "def interrupted(name):\n    raise KeyboardInterrupt\n"
        "blackstart.import_module = interrupted\n"
        "blackstart.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "Interrupted; nothing had begun.\n")
