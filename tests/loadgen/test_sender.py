"""The sender: exactly one op a send that was due, however late the process, however slow the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gevent
import pytest

from history.clock import NS_PER_S
from history.errors import RecordingError
from history.op import DROPPED, LOAD, NOT_DRAINED, Op, decode
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.client import Client
from loadgen.control import EXIT_RECORDING, Control, ControlFiles
from loadgen.sender import Sender, Slice


class FakeClient:
    """Answers after ``latency_s`` of gevent's time; counts what is in flight."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.most_in_flight = self._in_flight = 0
        self.closed = False

    def send(self, seq: int, entry: int, t_intended: int) -> Op:
        t_sent = time.monotonic_ns()
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            gevent.sleep(self.latency_s)
        except gevent.GreenletExit:
            return self.unknown(seq, entry, t_intended, NOT_DRAINED)
        self._in_flight -= 1
        return Op(
            source=LOAD, process="load-0", kind="chat", t_intended=t_intended, t_sent=t_sent, outcome="ok", seq=seq
        )

    def unknown(self, seq: int, entry: int, t_intended: int, error: str, why: str = "") -> Op:
        return Op(
            source=LOAD, process="load-0", kind="chat", t_intended=t_intended, outcome="unknown", error=error, seq=seq
        )

    def close(self) -> None:
        self.closed = True


def sender_of(
    folder: Path, client: FakeClient, *, sends: int = 100, rate_rps: float = 500.0, **options: Any
) -> tuple[Sender, ControlFiles]:
    run = RunDirectory(folder)
    part = Slice(0, range(sends), [int(i * NS_PER_S / rate_rps) for i in range(sends)], [0] * sends)
    files = ControlFiles(run)
    options.setdefault("total_timeout_s", 0.2)
    writer = options.pop("writer", None) or OpWriter(run.ops_file("load-0"))
    return Sender(part, cast(Client, client), writer, files, **options), files


def recorded(folder: Path) -> list[Op]:
    return [decode(line) for line in RunDirectory(folder).ops_file("load-0").read_bytes().splitlines()]


def begin(files: ControlFiles, stop_after_s: float) -> tuple[int, int]:
    start_ns = time.monotonic_ns() + NS_PER_S // 100
    stop_ns = start_ns + int(stop_after_s * NS_PER_S)
    files.write(Control(start_ns, stop_ns))
    return start_ns, stop_ns


def test_every_send_before_the_stop_and_none_after_it(tmp_path: Path) -> None:
    client = FakeClient()
    sender, files = sender_of(tmp_path, client)
    start_ns, stop_ns = begin(files, 0.1)
    sender.run()
    ops = recorded(tmp_path)
    assert [op.seq for op in sorted(ops, key=lambda op: op.seq)] == list(range(50))
    assert all(op.t_intended == start_ns + op.seq * 2_000_000 < stop_ns for op in ops)
    assert all(op.t_sent >= op.t_intended for op in ops)
    assert files.workers()[0].state == "drained"
    assert files.workers()[0].recorded == 50
    assert client.closed
    assert sender.exit_code == 0


def test_slow_answers_do_not_hold_back_the_next_send(tmp_path: Path) -> None:
    client = FakeClient(latency_s=0.15)
    sender, files = sender_of(tmp_path, client)
    begin(files, 0.1)
    sender.run()
    assert client.most_in_flight == 50
    assert len(recorded(tmp_path)) == 50
    assert all(op.t_sent - op.t_intended < 50_000_000 for op in recorded(tmp_path))


def test_what_does_not_end_is_unknown_not_drained(tmp_path: Path) -> None:
    sender, files = sender_of(tmp_path, FakeClient(latency_s=60), total_timeout_s=0.05)
    begin(files, 0.1)
    began = time.monotonic()
    sender.run()
    assert time.monotonic() - began < 1.5
    ops = recorded(tmp_path)
    assert sorted(op.seq for op in ops) == list(range(50))
    assert {(op.outcome, op.error) for op in ops} == {("unknown", NOT_DRAINED)}


def jumping(at_call: int, jump_s: float) -> Callable[[], int]:
    """A clock that jumps: the process was stopped for a while."""
    calls = 0

    def clock() -> int:
        nonlocal calls
        calls += 1
        return time.monotonic_ns() + (int(jump_s * NS_PER_S) if calls > at_call else 0)

    return clock


def test_late_sends_go_out_all_the_same(tmp_path: Path) -> None:
    sender, files = sender_of(tmp_path, FakeClient(), clock=jumping(40, 0.5))  # wakes after the stop, within a second
    begin(files, 0.1)
    sender.run()
    ops = recorded(tmp_path)
    assert sorted(op.seq for op in ops) == list(range(50))
    assert {op.outcome for op in ops} == {"ok"}


def test_sends_too_late_after_the_stop_are_dropped_and_recorded(tmp_path: Path) -> None:
    sender, files = sender_of(tmp_path, FakeClient(), clock=jumping(20, 5.0))
    begin(files, 0.1)
    sender.run()
    ops = recorded(tmp_path)
    assert sorted(op.seq for op in ops) == list(range(50))
    dropped = [op for op in ops if op.error == DROPPED]
    assert dropped
    assert all(op.outcome == "unknown" and op.t_sent == -1 for op in dropped)


def test_the_plan_may_end_before_the_stop(tmp_path: Path) -> None:
    sender, files = sender_of(tmp_path, FakeClient(), sends=20)
    begin(files, 0.1)
    sender.run()
    assert len(recorded(tmp_path)) == 20


def test_halt_stops_without_a_word_from_the_control(tmp_path: Path) -> None:
    sender, files = sender_of(tmp_path, FakeClient(), sends=5000)
    begin(files, 60)
    gevent.spawn_later(0.1, sender.halt)
    sender.run()
    assert sender.wait(0)
    assert 20 < len(recorded(tmp_path)) < 400
    seqs = sorted(op.seq for op in recorded(tmp_path))
    assert seqs == list(range(len(seqs)))


class FullDisk(OpWriter):
    """Takes ten ops, then the disk is full."""

    taken = 0

    def append(self, op: Op) -> None:
        self.taken += 1
        if self.taken > 10:
            raise RecordingError("cannot record", hint="free space")
        super().append(op)


def test_a_full_disk_ends_the_load(tmp_path: Path) -> None:
    writer = FullDisk(RunDirectory(tmp_path).ops_file("load-0"))
    sender, files = sender_of(tmp_path, FakeClient(), sends=5000, writer=writer)
    begin(files, 60)
    sender.run()
    assert isinstance(sender.failure, RecordingError)
    assert sender.exit_code == EXIT_RECORDING
    assert len(recorded(tmp_path)) == 10
    status = files.workers()[0]
    assert (status.state, status.code, status.recorded) == ("failed", EXIT_RECORDING, 10)
    assert "cannot record" in status.reason


def test_a_mistake_of_ours_ends_the_load_loudly(tmp_path: Path) -> None:
    sender, files = sender_of(tmp_path, FakeClient(), on_op=lambda op: 1 / 0)
    begin(files, 0.1)
    sender.run()
    assert isinstance(sender.failure, ZeroDivisionError)
    assert sender.exit_code == 1
    assert "ZeroDivisionError" in files.workers()[0].reason


def test_control_files_say_what_was_written_last_and_can_be_cleared(tmp_path: Path) -> None:
    files = ControlFiles(RunDirectory(tmp_path))
    assert files.read() == Control()
    for control in (Control(5), Control(5, 9)):
        ControlFiles(RunDirectory(tmp_path)).write(control)
        assert files.read() == control
    files.clear()
    files.clear()
    assert files.workers() == {}
    assert not (tmp_path / "load").exists()


@pytest.mark.parametrize("stopped", [False, True])
def test_it_waits_for_the_start(tmp_path: Path, stopped: bool) -> None:
    sender, files = sender_of(tmp_path, FakeClient())
    running = gevent.spawn(sender.run)
    gevent.sleep(0.05)
    assert files.workers()[0].state == "ready"
    assert recorded(tmp_path) == []
    if stopped:
        files.write(Control(stop_ns=1))
    else:
        begin(files, 0.02)
    running.join(2)
    assert len(recorded(tmp_path)) == (0 if stopped else 10)
