"""Locust started by hand: its web page, its workers, its processes; several hosts refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from history.errors import UsageError
from history.op import LOAD_DRAINED, LOAD_STOP, NO_RECORD
from history.reader import Run, read_run
from loadgen.byhand import parse_models
from loadgen.control import EXIT_REFUSED
from loadgen.process import LOCUSTFILE

if TYPE_CHECKING:
    from tests.loadgen.load_runs import ROOT, cheap_server, locust, prepared, wait_for
else:
    from load_runs import ROOT, cheap_server, locust, prepared, wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(child: subprocess.Popen[str], timeout_s: float = 30.0) -> str:
    """What the process printed; it must end by itself."""
    try:
        return child.communicate(timeout=timeout_s)[0]
    finally:
        child.kill()
        child.wait()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def post(url: str, data: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5) as answer:
        return json.load(answer)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def complete(run: Run, sends: int, within: int = 1) -> bool:
    """Every send that was due is recorded and ok, and the events of a runner are there."""
    assert abs(len(run.load) - sends) <= within
    assert run.duplicates == 0
    assert run.load.outcome.where("ok").all()
    assert [op.outcome for op in run.history.of_kind(LOAD_DRAINED)] == ["ok"]
    return True


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_prepared_run_headless(tmp_path: Path, processes: list[str]) -> None:
    port = str(free_port())
    with cheap_server() as url:
        run = prepared(tmp_path, url, horizon_s=1.5)
        child = locust(
            "--headless", "--run", str(run.path), "--master-port", port, "--master-bind-port", port, *processes
        )
        printed = ended(child)
    assert child.returncode == 0, printed
    assert complete(read_run(run.path), 150)
    names = sorted(path.name for path in run.ops.iterdir())
    assert names == ["by-hand.jsonl", *(f"load-{i}.jsonl" for i in range(2 if processes else 1))]


def test_master_and_workers_and_one_of_them_killed(tmp_path: Path) -> None:
    port = str(free_port())
    with cheap_server() as url:
        run = prepared(tmp_path, url, horizon_s=2.5)
        master = locust(
            "--headless", "--run", str(run.path), "--master", "--expect-workers", "3", "--master-bind-port", port
        )
        workers = [locust("--worker", "--master-port", port) for _ in range(3)]
        wait_for(lambda: all(run.ops_file(f"load-{i}").exists() for i in range(3)))
        wait_for(lambda: all(run.ops_file(f"load-{i}").stat().st_size > 5000 for i in range(3)))
        killed = json.loads((run.path / "load" / "worker-1.json").read_bytes())["pid"]
        os.kill(killed, signal.SIGKILL)
        printed = ended(master)
        for worker in workers:
            printed += ended(worker)
    assert killed in [worker.pid for worker in workers], printed
    result = read_run(run.path)
    lost = result.load.take(result.load.error.where(NO_RECORD))
    assert 249 <= len(result.load) <= 251
    assert result.duplicates == 0
    assert len(lost) > 10
    assert (lost.seq % 3 == 1).all()
    assert result.load.take(result.load.seq % 3 != 1).outcome.where("ok").all()
    assert [op.outcome for op in result.history.of_kind(LOAD_DRAINED)] == ["fail"]
    assert master.returncode == 1


def test_the_web_page_starts_shows_and_stops_a_load(tmp_path: Path) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    with cheap_server() as url:
        child = locust("--web-host", "127.0.0.1", "--web-port", str(port), "--out", str(tmp_path / "out"))
        try:
            wait_for(lambda: answers(page))
            assert "rate" in urllib.request.urlopen(page, timeout=5).read().decode()
            form = f"entry={url}&models=a:chat=3,b:embedding=1&rate=80&seconds=60&good_within_ms=200"
            assert post(f"{page}/swarm", form.encode())["success"]
            wait_for(lambda: get(f"{page}/stats/requests")["total_rps"] > 40)
            stats = {row["name"]: row for row in get(f"{page}/stats/requests")["stats"]}
            assert stats["a"]["num_requests"] > 2 * stats["b"]["num_requests"] > 0
            assert stats["b"]["num_failures"] == stats["b"]["num_requests"]  # the scripted server knows no vectors
            post(f"{page}/stop", b"")
            (directory,) = (tmp_path / "out").iterdir()
            wait_for(lambda: (directory / "ops" / "by-hand.jsonl").read_text().count("load.drained") == 1)
        finally:
            child.terminate()
            printed = ended(child)
    result = read_run(directory)
    assert result.header.load.good_within_ms == 200
    assert [entry.share for entry in result.header.mix.entries] == [0.75, 0.25]
    assert len(result.history.of_kind(LOAD_STOP)) == 1
    assert len(result.load) > 80, printed
    assert result.duplicates == 0
    assert not result.load.error.where(NO_RECORD).any()


def test_ctrl_c_stops_drains_and_loses_nothing(tmp_path: Path) -> None:
    port = str(free_port())
    with cheap_server() as url:
        run = prepared(tmp_path, url, horizon_s=60)
        child = locust(
            *("--headless", "--run", str(run.path), "--processes", "2"),
            *("--master-port", port, "--master-bind-port", port),
            start_new_session=True,
        )
        wait_for(lambda: run.ops_file("load-1").exists() and run.ops_file("load-1").stat().st_size > 10_000)
        os.killpg(child.pid, signal.SIGINT)
        printed = ended(child)
    result = read_run(run.path)
    assert len(result.load) > 50
    assert result.duplicates == 0
    assert np.count_nonzero(result.load.error.where(NO_RECORD)) == 0, printed


def test_what_cannot_be_asked_for_is_refused_with_the_next_step(tmp_path: Path) -> None:
    child = locust("--headless", "--entry", "http://127.0.0.1:1", "--out", str(tmp_path))
    printed = ended(child)
    assert child.returncode == EXIT_REFUSED
    assert "http://127.0.0.1:1/v1/models does not say which models there are" in printed
    assert "--models NAME" in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_no_run_directory_is_refused(tmp_path: Path) -> None:
    child = locust("--headless", "--run", str(tmp_path))
    assert "has no header.json" in ended(child)
    assert child.returncode == EXIT_REFUSED


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/sys/kernel/random/boot_id").exists(), reason="needs root")
def test_a_worker_on_another_host_is_refused(tmp_path: Path) -> None:
    """The worker sees another boot id, as on another host (a mount of its own over the file)."""
    other, port = tmp_path / "boot_id", str(free_port())
    other.write_text("0b0b0b0b-another-host\n")
    run = prepared(tmp_path, "http://127.0.0.1:1", horizon_s=1.0)
    master = locust(
        "--headless", "--run", str(run.path), "--master", "--expect-workers", "1", "--master-bind-port", port
    )
    over = f"mount --bind {other} /proc/sys/kernel/random/boot_id && exec {sys.executable} -m locust -f {LOCUSTFILE}"
    worker = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{over} --worker --master-port {port}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, worker_said = ended(master), ended(worker)
    assert "0b0b0b0b-another-host" in worker_said
    assert "a load on several hosts is refused" in worker_said
    assert "a load on several hosts is refused" in said
    assert master.returncode == EXIT_REFUSED
    assert not run.ops_file("load-0").exists()


def test_the_options_teach() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "loadgen.locustfile"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    for option in ("--run", "--entry", "--models", "--rate", "--load-shape", "--good-within-ms", "--out"):
        assert f"{option} " in printed


def test_models_of_the_command_line() -> None:
    entries = parse_models("a, b:embedding=2,c:completion=1").entries
    assert [(e.model, e.kind, e.share) for e in entries] == [
        ("a", "chat", 0.25),
        ("b", "embedding", 0.5),
        ("c", "completion", 0.25),
    ]


@pytest.mark.parametrize("text", [",", "a:video", "a=0", "a=x", "a=inf", "a=-1"])
def test_models_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--models"):
        parse_models(text)
