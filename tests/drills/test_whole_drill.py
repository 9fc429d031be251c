"""Whole drills end to end, through the command line: real processes, real load, a real Prometheus, real records."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from history.op import FAULT_INJECT, FLEET_READY, REPLICA_READY
from history.reader import read_run
from tests.drills.harness import (
    MICRO,
    TRIES_LIMIT_S,
    Blackstart,
    first_answer_again_ns,
    host_held_up,
    only_run,
    run,
    run_until_measured,
)

pytestmark = [pytest.mark.drill, pytest.mark.timeout(TRIES_LIMIT_S)]

MIB = 2**20


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of one micro-drill that passed."""
    code, text, left, path = run_until_measured(str(MICRO), "--seed", "7", out=tmp_path_factory.mktemp("runs"))
    assert code == 0, text
    assert left == []
    return path


def result_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((path / "result.json").read_text())
    return loaded


def test_a_run_directory_has_everything(micro: Path) -> None:
    names = {"header.json", "schedule.json.gz", "history.jsonl.gz", "result.json", "report.html", "junit.xml"}
    names |= {"summary.md", "drill.py", "journal.jsonl", "logs"}
    assert names <= {path.name for path in micro.iterdir()}
    assert not (micro / "fleet").exists()  # weights and caches die with the fleet
    assert (micro / "drill.py").read_text() == MICRO.read_text()


def test_the_result_says_what_the_issue_asks_for(micro: Path) -> None:
    result = result_of(micro)
    for key in ("schema_version", "drill", "run_id", "seed", "environment", "verdict", "reasons", "faults", "windows"):
        assert key in result, key
    assert (result["drill"], result["seed"], result["environment"]) == ("micro-drill", 7, "local")
    assert set(result["models"]) == {"chat", "code", "embed", "curie"}
    code = result["models"]["code"]
    phases = ("detected_s", "decided_s", "scheduled_s", "weights_s", "ready_s", "first_success_s")
    values = [code[phase] for phase in phases]
    assert values == sorted(values), dict(zip(phases, values, strict=True))
    assert code["service_back_s"][0] <= code["service_back_s"][1]
    curie = result["models"]["curie"]  # lives in amber: nothing of it was lost, so nobody noticed anything
    assert (curie["detected_s"], curie["victims"], curie["unaffected"]) == (None, 0, True)
    validity = result["validity"]
    assert {"scheduled", "recorded", "dropped", "lag_ms_p99", "achieved_ratio"} <= set(validity)
    assert ElementTree.parse(micro / "junit.xml").getroot().tag in ("testsuite", "testsuites")


def test_ops_recorded_are_sends_scheduled(micro: Path) -> None:
    run_ = read_run(micro)
    assert len(run_.load) > 300
    np.testing.assert_array_equal(run_.load.seq, np.arange(len(run_.load)))
    assert not run_.load.error.where("no-record").any()
    assert run_.duplicates == 0
    validity = result_of(micro)["validity"]
    assert validity["scheduled"] == validity["recorded"] == len(run_.load)


@pytest.mark.parametrize("model", ["code", "embed"])  # their only replica stood in the victim
def test_service_back_holds_the_moment_of_the_servers_own_logs(micro: Path, model: str) -> None:
    run_ = read_run(micro)
    (injected,) = run_.history.of_kind(FAULT_INJECT)
    truth_s = (first_answer_again_ns(run_, micro / "logs", model) - injected.t_intended) / 1e9
    low, high = result_of(micro)["models"][model]["service_back_s"]
    assert low <= truth_s <= high


def test_prometheus_answers_are_in_the_history(micro: Path) -> None:
    queries = {op.detail["name"]: op for op in read_run(micro).history.of_kind("query")}
    assert {"cache_requests", "store_bytes", "weight_bytes", "gpus_allocated", "gpus_total"} <= set(queries)
    stored = queries["store_bytes"].detail["series"][0]["values"]
    assert stored[-1] > 1 * MIB  # code's weights alone are 1 MiB, and crossed the wire twice


def test_analyze_and_report_give_the_same_bytes_on_a_copy(micro: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(micro, copy)
    for name in ("result.json", "report.html", "junit.xml", "summary.md"):
        (copy / name).unlink()
    assert run("analyze", str(copy))[0] == 0
    assert run("report", str(copy))[0] == 0
    for name in ("result.json", "report.html", "junit.xml", "summary.md"):
        assert (copy / name).read_bytes() == (micro / name).read_bytes(), name


@pytest.mark.parametrize(
    ("verdict", "missed", "held_up"),
    [
        ("unknown", {"send lag"}, True),
        ("unknown", {"send lag", "send lag near edges"}, True),
        ("unknown", {"send lag", "fault verified"}, False),
        ("unknown", set(), False),
        ("fail", {"send lag"}, False),
    ],
)
def test_only_late_sends_are_laid_to_the_host(
    micro: Path, tmp_path: Path, verdict: str, missed: set[str], held_up: bool
) -> None:
    result = result_of(micro) | {"verdict": verdict}
    for check in result["validity"]["checks"]:
        check["verdict"] = "unknown" if check["name"] in missed else "pass"
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert host_held_up(tmp_path) is held_up


def test_a_drill_in_which_nothing_happens_ends_unknown(tmp_path: Path) -> None:
    drill = tmp_path / "nothing.py"
    text = MICRO.read_text().replace("PowerLoss", "Noop").replace("micro-drill", "nothing")
    drill.write_text(text.replace("at_most_s=15", "at_most_s=9").replace("seconds=2", "seconds=1"))
    code, out, left = run("run", str(drill), "--out", str(tmp_path / "runs"))
    assert code == 2, out
    assert "nothing happened" in out.lower()
    assert left == []


def test_ctrl_c_heals_drains_and_still_writes_a_result(tmp_path: Path) -> None:
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path))
    blackstart.wait_for("lost power; verified")
    blackstart.process.send_signal(signal.SIGINT)
    code, out = blackstart.end()
    assert code == 130, out
    assert "Healed cobalt" in out, out
    assert "Traceback" not in out
    assert blackstart.left_behind() == []
    result = result_of(only_run(tmp_path))
    assert result["verdict"] == "unknown"
    assert any("interrupt" in reason.lower() for reason in result["reasons"])
    validity = result["validity"]
    assert validity["scheduled"] == validity["recorded"]


@pytest.mark.parametrize("moment", ["services outside up", "Fleet micro is ready", "Starting load and probers"])
def test_ctrl_c_before_the_first_request_still_writes_a_result(moment: str, tmp_path: Path) -> None:
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path))
    blackstart.wait_for(moment)
    blackstart.process.send_signal(signal.SIGINT)
    code, out = blackstart.end()
    assert code == 130, out
    assert "Traceback" not in out
    assert blackstart.left_behind() == []
    result = result_of(only_run(tmp_path))
    assert result["verdict"] == "unknown"
    assert any("interrupt" in reason.lower() for reason in result["reasons"])
    assert (only_run(tmp_path) / "report.html").exists()


def test_kill_9_of_the_load_process_ends_the_run_unknown(tmp_path: Path) -> None:
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path))
    blackstart.wait_for("lost power; verified")
    subprocess.run(["pkill", "-9", "-f", f"locust.*{only_run(tmp_path)}"], check=True)
    code, out = blackstart.end()
    assert code == 2, out
    assert "load process" in out
    assert "Traceback" not in out
    assert blackstart.left_behind() == []
    run_ = read_run(only_run(tmp_path))
    np.testing.assert_array_equal(run_.load.seq, np.arange(len(run_.load)))  # the missing sends are rows, unknown


def fill(path: Path) -> None:
    """Writes until the file system takes no more."""
    with path.open("wb", buffering=0) as ballast:
        for _ in range(64):
            ballast.write(bytes(MIB))


def test_a_full_disk_while_recording_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("needs a file system of its own to fill, and mount(8) refused")
    try:
        blackstart = Blackstart.start("run", str(MICRO), "--out", str(mount))
        blackstart.wait_for("Load and probers are ready")
        with pytest.raises(OSError, match="No space left"):
            fill(mount / "ballast")
        code, out = blackstart.end()
        assert code == 3, out
        assert "No space left" in out
        assert "Next: free space" in out
        assert "Traceback" not in out
        assert blackstart.left_behind() == []
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_observed_events_stand_in_the_history(micro: Path) -> None:
    run_ = read_run(micro)
    assert run_.history.of_kind(FLEET_READY)
    ready = [op for op in run_.history.of_kind(REPLICA_READY) if op.cluster != "cobalt" and op.detail.get("t_emitted")]
    assert {op.model for op in ready} >= {"code", "embed"}
    assert all(op.detail["t_emitted"] <= op.t_done for op in ready)
