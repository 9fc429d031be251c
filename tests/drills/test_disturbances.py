"""What disturbs a drill from outside: a stopped harness, a dead Prometheus, a request to stop, another drill."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drills.engine.safety.ledger import read_ledger
from history.op import GUARD, NOTED
from history.reader import read_run
from tests.drills.harness import MICRO, Blackstart, first_answer_again_ns, only_run, run

pytestmark = pytest.mark.drill


def result_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((path / "result.json").read_text())
    return loaded


@pytest.mark.soak
def test_a_harness_stopped_for_5_s_measures_the_same(tmp_path: Path) -> None:
    """The load goes on by itself; only what the harness stamps on receipt becomes less sharp, and is said to be."""
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path))
    blackstart.wait_for("Inject PowerLoss into cobalt")
    blackstart.process.send_signal(signal.SIGSTOP)
    time.sleep(5)  # the disturbance itself
    blackstart.process.send_signal(signal.SIGCONT)
    code, said = blackstart.end()
    assert "Traceback" not in said
    assert blackstart.left_behind() == []
    path = only_run(tmp_path)
    recorded, result = read_run(path), result_of(path)
    assert code in (0, 2), said  # never a fail: the fleet did nothing wrong
    np.testing.assert_array_equal(recorded.load.seq, np.arange(len(recorded.load)))
    assert not recorded.load.error.where("no-record").any()
    validity = result["validity"]
    assert validity["dropped"] == validity["no_record"] == 0
    assert [c["name"] for c in validity["checks"] if c["verdict"] != "pass"] == []
    (fault,) = result["faults"]
    assert fault["verified_s"] is not None
    for model in ("code", "embed"):
        truth_ns = first_answer_again_ns(recorded, path / "logs", model)
        injected_ns = next(op.t_intended for op in recorded.history.of_kind("fault.inject"))
        low, high = result["models"][model]["service_back_s"]
        assert low <= (truth_ns - injected_ns) / 1e9 <= high
    if code == 2:  # then some objective could not be dated sharply enough, and no other reason is given
        assert {o["verdict"] for o in result["objectives"]} <= {"pass", "unknown"}


def test_a_dead_prometheus_ends_nothing_but_what_rests_on_it(tmp_path: Path) -> None:
    drill = tmp_path / "scraped.py"
    drill.write_text(
        MICRO.read_text().replace("o.lost(at_most=500),", "o.lost(at_most=500), o.store_bytes(at_most=1e12),")
    )
    blackstart = Blackstart.start("run", str(drill), "--out", str(tmp_path / "runs"))
    blackstart.wait_for("Load and probers are ready")
    (scraper,) = [one for one in blackstart.processes() if one.name() == "prometheus"]
    scraper.kill()
    code, said = blackstart.end()
    assert code == 2, said
    assert "Traceback" not in said
    assert "all recovered: proven" in said
    assert blackstart.left_behind() == []
    path = only_run(tmp_path / "runs")
    verdicts = {o["name"]: o["verdict"] for o in result_of(path)["objectives"]}
    assert verdicts.pop("store_bytes[fleet]") == "unknown"
    assert set(verdicts.values()) == {"pass"}
    (note,) = read_run(path).history.of_kind(NOTED)
    assert "prometheus died" in note.detail["text"]


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook that remembers what it heard."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/drills", heard
        server.shutdown()


def test_a_running_drill_is_visible_alone_and_stops_when_asked(
    tmp_path: Path, state: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, heard = hook
    out = tmp_path / "runs"
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(out), "--webhook", url)
    blackstart.wait_for("Load and probers are ready")
    watcher = Blackstart.start("watch", "--plain")
    code, said, _ = run("run", str(MICRO), "--out", str(tmp_path / "second"))
    assert code == 4, said
    assert "another drill holds local: drill micro-drill by" in said
    assert "blackstart watch" in said
    assert not (tmp_path / "second").exists()
    blackstart.wait_for("lost power; verified")
    path = only_run(out)
    (path / "stop").touch()
    code, said = blackstart.end()
    assert code == 2, said
    assert "guard stop-request tripped: asked to stop by the file stop" in said
    assert "Healed cobalt" in said
    assert blackstart.left_behind() == []
    (trip,) = [op for op in read_run(path).history.events if op.source == GUARD]
    assert trip.kind == "stop-request"
    assert any("asked to stop" in reason for reason in result_of(path)["reasons"])
    _, seen = watcher.end()
    for line in ("injected: cobalt lost power", "guard stop-request tripped", "it ended UNKNOWN"):
        assert line in seen
    operations = ["start", "inject", "inject", "heal", "end"]
    assert [one["operation"] for one in heard] == operations
    assert [(one["outcome"], one["clusters"]) for one in heard[1:3]] == [("begun", ["cobalt"]), ("ok", ["cobalt"])]
    entries = [entry for entry in read_ledger(state, last=1_000) if entry.run == str(path)]
    assert [entry.operation for entry in entries] == operations
    assert entries[-1].outcome == "unknown"


def test_sigusr1_stops_a_drill_as_a_guard_does(tmp_path: Path) -> None:
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path), "--webhook", "http://127.0.0.1:9/nobody")
    blackstart.wait_for("Load and probers are ready")
    blackstart.process.send_signal(signal.SIGUSR1)
    code, said = blackstart.end()
    assert code == 2, said
    assert "guard stop-request tripped: asked to stop by SIGUSR1" in said
    assert blackstart.left_behind() == []


@pytest.mark.soak
def test_telemetry_that_stops_trips_a_guard_that_heals(tmp_path: Path) -> None:
    drill = tmp_path / "guarded.py"
    text = MICRO.read_text().replace("good_within_ms=500", "good_within_ms=500, total_timeout_s=1.0")
    text = text.replace("OpenLoop, PowerLoss, fleets", "OpenLoop, PowerLoss, fleets, guards as g")
    drill.write_text(text.replace("    objectives=[", "    guards=[g.telemetry(at_most_s=2)],\n    objectives=["))
    blackstart = Blackstart.start("run", str(drill), "--out", str(tmp_path / "runs"))
    blackstart.wait_for("lost power; verified")
    for process in blackstart.processes():
        if any("locustfile.py" in part for part in process.cmdline()):
            process.suspend()
    code, said = blackstart.end()
    assert code == 2, said
    assert "guard telemetry tripped: the last record of the load is 2." in said
    assert "Healed cobalt" in said
    assert "Traceback" not in said
    assert blackstart.left_behind() == []
    reasons = result_of(only_run(tmp_path / "runs"))["reasons"]
    assert any("guard telemetry tripped" in reason for reason in reasons)


def test_after_kill_9_of_the_harness_the_watchdog_heals_when_nobody_comes(tmp_path: Path, state: Path) -> None:
    blackstart = Blackstart.start("run", str(MICRO), "--out", str(tmp_path))
    blackstart.wait_for("lost power; verified")
    zygote = next(one for one in blackstart.processes() if "fleet.environments.local.zygote" in one.cmdline())
    zygote.suspend()
    blackstart.process.kill()
    blackstart.end()
    zygote.kill()
    path = only_run(tmp_path)
    code, said, _ = run("run", str(MICRO), "--out", str(tmp_path / "next"))
    assert code == 4, said
    assert f"blackstart restore {path}" in said
    watchdog = next(one for one in blackstart.processes() if "drills.engine.safety.watchdog" in one.cmdline())
    watchdog.wait(timeout=30)
    assert blackstart.left_behind() == []
    assert not (path / "fleet").exists()
    assert not list((state / "locks").glob("*.json"))
    assert "released the lock" in (path / "logs" / "watchdog.log").read_text()
