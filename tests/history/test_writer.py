"""The writer: one line an op, whole or lost; never more than the line that a kill interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from history.errors import RecordingError
from history.op import LOAD, Op, decode
from history.reader import read_history
from history.rundir import RunDirectory
from history.writer import OpWriter

ENDLESS = """
import sys
from pathlib import Path
from history.op import Op
from history.writer import OpWriter
writer = OpWriter(Path(sys.argv[1]))
for seq in range(2_000_000):
    writer.append(Op(source="load", process="load-0", kind="chat", t_intended=seq, outcome="ok", seq=seq))
    if seq == 2_000:
        print("under way", flush=True)
"""


def test_ops_come_back_as_they_went(tmp_path: Path, load_op: Callable[[int], Op]) -> None:
    ops = [load_op(seq) for seq in range(5)]
    with OpWriter(tmp_path / "ops" / "load-0.jsonl") as writer:
        for op in ops:
            writer.append(op)
    lines = (tmp_path / "ops" / "load-0.jsonl").read_bytes().splitlines()
    assert [decode(line) for line in lines] == ops
    assert writer.process == "load-0"
    writer.close()


def test_a_killed_writer_loses_at_most_its_last_line(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    path = directory.ops_file("load-0")
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        process.send_signal(signal.SIGKILL)
    found = read_history(directory)
    assert len(found.requests) >= 2_000
    assert found.damaged <= 1
    assert found.requests.seq.tolist() == list(range(len(found.requests)))


def test_a_line_cut_in_the_middle_costs_that_line_only(tmp_path: Path, load_op: Callable[[int], Op]) -> None:
    directory = RunDirectory(tmp_path)
    for name in ("load-0", "load-1"):
        with OpWriter(directory.ops_file(name)) as writer:
            for seq in range(10):
                writer.append(load_op(seq if name == "load-0" else seq + 10))
    path = directory.ops_file("load-0")
    data = path.read_bytes()
    for cut in (1, 20, len(data) - data.rfind(b"\n", 0, -1) - 2):
        path.write_bytes(data[:-cut])
        found = read_history(directory)
        whole = 10 if cut == 1 else 9  # only the newline is missing: the op is whole
        assert (len(found.requests), found.damaged) == (10 + whole, 10 - whole)


def test_a_restarted_process_appends_after_a_cut_line(tmp_path: Path, load_op: Callable[[int], Op]) -> None:
    """The cut line has no newline: the next writer must not glue its first op to it."""
    directory = RunDirectory(tmp_path)
    path = directory.ops_file("load-0")
    with OpWriter(path) as writer:
        writer.append(load_op(0))
        writer.append(load_op(1))
    path.write_bytes(path.read_bytes()[:-30])
    with OpWriter(path) as writer:
        writer.append(load_op(2))
    found = read_history(directory)
    assert (found.requests.seq.tolist(), found.damaged) == ([0, 2], 1)


def test_threads_do_not_mix_lines(tmp_path: Path, load_op: Callable[[int], Op]) -> None:
    with OpWriter(tmp_path / "load-0.jsonl") as writer:

        def write(number: int) -> None:
            for i in range(100):
                writer.append(load_op(number * 100 + i))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = (tmp_path / "load-0.jsonl").read_bytes().splitlines()
    assert sorted(decode(line).seq for line in lines) == list(range(800))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_recording_error(tmp_path: Path) -> None:
    (tmp_path / "load-0.jsonl").symlink_to("/dev/full")
    with OpWriter(tmp_path / "load-0.jsonl") as writer, pytest.raises(RecordingError, match="No space left") as caught:
        writer.append(Op(source=LOAD, process="load-0", kind="chat", t_intended=1, outcome="ok"))
    assert "--out" in caught.value.hint


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("a file")
    with pytest.raises(RecordingError, match="cannot record"):
        OpWriter(tmp_path / "ops" / "load-0.jsonl")


def test_a_closed_writer_records_nothing(tmp_path: Path, load_op: Callable[[int], Op]) -> None:
    writer = OpWriter(tmp_path / "load-0.jsonl")
    writer.close()
    with pytest.raises(RecordingError):
        writer.append(load_op(0))
