"""The load under the runner: one record a send that was due, in one process and in several, whatever dies."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from rich.console import Console

from drills.engine.nouns import OpenLoop
from drills.engine.runner.guarding import StopRequest
from drills.engine.runner.interrupts import Interrupts
from drills.engine.runner.recorder import Recorder
from drills.engine.runner.traffic import Traffic
from drills.engine.runner.view import PlainView
from history.clock import NS_PER_S, now_ns
from history.errors import BlackstartError, RecordingError
from history.op import NO_RECORD
from history.reader import read_run
from loadgen.process import LoadProcess
from loadgen.schedule import slice_of

if TYPE_CHECKING:
    from tests.loadgen.load_runs import ROOT, Runner, cheap_server, prepared, wait_for
else:
    from load_runs import ROOT, Runner, cheap_server, prepared, wait_for


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("processes", [1, 2])
def test_one_record_a_send_that_was_due(tmp_path: Path, processes: int) -> None:
    with cheap_server() as url, Runner(prepared(tmp_path, url), processes) as runner:
        stop_ns = runner.stop(1.505)
        assert stop_ns == runner.start_ns + int(1.505 * NS_PER_S)
        assert runner.load.wait_drained(10) is None
    run = read_run(runner.run.path)
    due = int(np.searchsorted(run.schedule.offset_ns, stop_ns - runner.start_ns))
    assert 149 <= due <= 151
    assert len(run.load) == due
    assert run.duplicates == 0
    assert run.load.outcome.where("ok").all()
    assert (run.load.t_intended == runner.start_ns + run.schedule.offset_ns[:due]).all()
    for index in range(processes):
        mine = run.load.take(run.load.process.where(f"load-{index}"))
        assert mine.seq.tolist() == slice_of(due, index, processes).tolist()
    assert not (runner.run.path / "load").exists()


def test_a_killed_worker_leaves_exactly_its_missing_sends_unknown(tmp_path: Path) -> None:
    with cheap_server() as url, Runner(prepared(tmp_path, url), 2) as runner:
        runner.at(1.0)
        os.kill(runner.load.pids[1], signal.SIGKILL)
        killed_ns = now_ns()
        runner.stop(2.0)
        said = runner.load.wait_drained(10)
    assert said is not None
    assert "1 of 2 load workers did not drain" in said
    run = read_run(runner.run.path)
    lost = run.load.take(run.load.error.where(NO_RECORD))
    assert run.duplicates == 0
    assert 199 <= len(run.load) <= 201
    assert (lost.seq % 2 == 1).all()
    assert lost.outcome.where("unknown").all()
    its = run.load.take(run.load.seq % 2 == 1)
    assert set(its.seq[its.t_intended > killed_ns]) <= set(lost.seq)
    assert len(lost) >= 40
    kept = run.load.take(~run.load.error.where(NO_RECORD))
    assert kept.outcome.where("ok").all()
    assert set(run.load.seq[run.load.seq % 2 == 0]) <= set(kept.seq)
    # what was lost before the kill was in flight or late then; the other worker shows how late sends were
    late_ns = (kept.t_done - kept.t_intended).max()
    assert (lost.t_intended >= killed_ns - late_ns - NS_PER_S // 20).all()


def test_a_killed_load_process_is_reported_and_its_sends_are_unknown(tmp_path: Path) -> None:
    with cheap_server() as url, Runner(prepared(tmp_path, url)) as runner:
        runner.at(0.5)
        os.kill(runner.load.pids[0], signal.SIGKILL)
        wait_for(lambda: runner.load.poll() is not None)
        runner.stop(1.0)
        assert "was killed by SIGKILL" in (runner.load.wait_drained(5) or "")
        assert isinstance(runner.load.failure(), BlackstartError)
    run = read_run(runner.run.path)
    unknown = run.load.error.where(NO_RECORD)
    assert 99 <= len(run.load) <= 101
    assert 40 <= np.count_nonzero(unknown) <= 60


def test_sends_that_a_stopped_process_missed_go_out_late(tmp_path: Path) -> None:
    with cheap_server() as url, Runner(prepared(tmp_path, url)) as runner:
        pid = runner.load.pids[0]
        runner.at(0.5)
        os.kill(pid, signal.SIGSTOP)
        stopped_ns = now_ns()
        runner.at(1.0)
        going_ns = now_ns()
        os.kill(pid, signal.SIGCONT)
        runner.stop(1.5)
        assert runner.load.wait_drained(10) is None
    run = read_run(runner.run.path)
    assert run.load.outcome.where("ok").all()
    missed = run.load.take((run.load.t_intended > stopped_ns) & (run.load.t_intended < going_ns))
    assert len(missed) >= 45
    assert (missed.t_sent >= going_ns).all()
    assert (missed.t_sent - missed.t_intended).max() >= 0.45 * NS_PER_S


def test_a_full_disk_ends_the_load_and_says_so(tmp_path: Path) -> None:
    with cheap_server() as url, Runner(prepared(tmp_path, url)) as runner:
        runner.at(0.3)
        pid = runner.load.pids[0]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, 20_000))  # as if no block were left
        wait_for(lambda: runner.load.poll() is not None)
        error = runner.load.failure()
    assert isinstance(error, RecordingError)
    assert "could not write its records" in error.message
    assert "cannot record to" in error.message
    assert "--out DIR" in error.hint
    assert read_run(runner.run.path).duplicates == 0


def test_the_load_is_ended_also_where_the_runner_can_record_nothing(tmp_path: Path) -> None:
    failures: list[str] = []

    def attempt(what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except RecordingError as error:
            failures.append(f"{what}: {error}")

    with cheap_server() as url, Recorder(Path("/dev/full"), now_ns) as recorder:
        traffic = Traffic(OpenLoop(100.0), prepared(tmp_path, url), recorder, failures)
        interrupts = Interrupts(PlainView(Console()), StopRequest(tmp_path))
        with pytest.raises(RecordingError), ExitStack() as undo:
            traffic.start(undo, attempt, interrupts)
    assert [text.partition(":")[0] for text in failures] == ["stop the load"]
    assert [child.cmdline() for child in psutil.Process().children()] == []


@pytest.mark.parametrize("processes", [1, 2])
def test_the_load_ends_when_its_parent_dies(tmp_path: Path, processes: int) -> None:
    with cheap_server() as url:
        run = prepared(tmp_path, url)
        script = (
            "import sys, time\nfrom pathlib import Path\nfrom history.rundir import RunDirectory\n"
            "from loadgen.process import LoadProcess\n"
            f"load = LoadProcess(RunDirectory(Path({str(run.path)!r})), {processes})\n"
            "load.start()\nload.wait_ready(30)\nload.begin()\nprint(*load.pids, flush=True)\ntime.sleep(60)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        with parent.stdout:
            pids = [int(word) for word in parent.stdout.readline().split()]
            family = [*pids, *(p.pid for p in psutil.Process(parent.pid).children(recursive=True))]
            assert len(pids) == processes
            time.sleep(0.5)
            parent.kill()
            parent.wait()
        wait_for(lambda: not any(map(alive, family)), timeout_s=6)


def test_without_locust_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load = LoadProcess(prepared(tmp_path, "http://127.0.0.1:1"))
    with pytest.raises(BlackstartError, match="locust is not installed") as raised:
        load.start()
    assert "pip install locust" in raised.value.hint
    assert not (tmp_path / "run" / "logs").exists()
    load.kill()


def test_a_plan_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    run = prepared(tmp_path, "http://127.0.0.1:1")
    run.ops.mkdir()
    run.ops_file("load-0").write_bytes(b"")
    load = LoadProcess(run)
    load.start()
    try:
        with pytest.raises(BlackstartError, match="was sent before"):
            load.wait_ready(30)
    finally:
        load.kill()


def test_stop_before_the_start_sends_nothing(tmp_path: Path) -> None:
    run = prepared(tmp_path, "http://127.0.0.1:1")
    load = LoadProcess(run)
    load.start()
    try:
        load.wait_ready(30)
        load.stop()
        assert load.wait_drained(10) is None
    finally:
        load.kill()
    assert run.ops_file("load-0").read_bytes() == b""


def test_a_stop_is_never_moved_back(tmp_path: Path) -> None:
    load = LoadProcess(prepared(tmp_path, "http://127.0.0.1:1"))
    first = load.stop(now_ns() + NS_PER_S)
    assert load.stop(first + NS_PER_S) == first
    assert load.stop(0) < first
    assert load.begin(0) >= now_ns() + NS_PER_S // 4


def test_no_processes_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LoadProcess(prepared(tmp_path, "http://127.0.0.1:1"), 0)
