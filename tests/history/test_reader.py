"""The reader: columns, the merge, the join with the schedule, and every kind of damage."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assertions import analyze, encode_result
from history import files
from history.errors import UsageError
from history.op import LOAD, NO_RECORD, OBSERVER, Op, encode
from history.reader import columns, load_bounds, merge, read_history, read_run
from history.rundir import RunDirectory
from history.writer import OpWriter

if TYPE_CHECKING:
    from tests.history.conftest import MakeRun

GAP, START = 10_000_000, 1_000_000_000_000
LoadOp = Callable[[int], Op]


def test_columns_hold_what_ops_say(load_op: LoadOp) -> None:
    event = Op(source=OBSERVER, process="o", kind="replica.ready", t_intended=5, outcome="ok", detail={"a": 1})
    found = columns([load_op(1), event, load_op(0)])
    assert found.requests.seq.tolist() == [0, 1]
    assert [found.requests.model[i] for i in range(2)] == ["chatty", "vectors"]
    assert found.requests.model.where("vectors").tolist() == [False, True]
    assert found.requests.model.code("nobody") == -1
    assert found.events == (event,)
    assert found.of_kind("replica.ready") == (event,)
    assert found.of_kind("replica.gone") == ()


def test_merge_keeps_every_op_and_every_broken_line(tmp_path: Path, run_in: MakeRun) -> None:
    directory = run_in(tmp_path, 50)
    with directory.ops_file("load-0").open("ab") as file:
        file.write(b'{"source": "load", "proc')
    before = read_history(directory)
    lines = sorted(line for part in directory.ops.glob("*") for line in part.read_bytes().split(b"\n") if line)
    assert merge(directory) == 1
    assert not directory.ops.exists()
    merged = gzip.decompress(directory.history.read_bytes()).split(b"\n")
    assert sorted(line for line in merged if line) == lines
    after = read_history(directory)
    assert (after.damaged, after.truncated, len(after.requests)) == (1, False, 50)
    assert after.events == before.events
    for name in ("t_intended", "t_done", "seq"):
        assert np.array_equal(getattr(after.requests, name), getattr(before.requests, name))


def test_merged_bytes_do_not_depend_on_when(tmp_path: Path, run_in: MakeRun) -> None:
    one, two = run_in(tmp_path / "one"), run_in(tmp_path / "two")
    merge(one)
    merge(two)
    assert one.history.read_bytes() == two.history.read_bytes()


def test_a_merge_that_was_killed_can_be_repeated(tmp_path: Path, run_in: MakeRun, load_op: LoadOp) -> None:
    directory = run_in(tmp_path, 20)
    kept = tmp_path / "kept"
    shutil.copytree(directory.ops, kept)
    merge(directory)
    whole = directory.history.read_bytes()
    # Killed after the merged file was in place: one part is still there, the other is gone.
    directory.ops.mkdir()
    shutil.copy(kept / "load-0.jsonl", directory.ops)
    assert len(read_run(tmp_path).load) == 20
    assert read_run(tmp_path).duplicates == 0
    assert merge(directory) == 0
    assert directory.history.read_bytes() == whole
    # An op that came later is read, and merged without loss.
    with OpWriter(directory.ops_file("restore")) as writer:
        writer.append(Op(source="runner", process="restore", kind="fault.healed", t_intended=START, outcome="ok"))
    assert len(read_history(directory).of_kind("fault.healed")) == 1
    merge(directory)
    found = read_history(directory)
    assert (len(found.of_kind("fault.healed")), len(found.requests)) == (1, 20)


def test_exactly_one_row_a_scheduled_send(tmp_path: Path, run_in: MakeRun, load_op: LoadOp) -> None:
    directory = run_in(tmp_path, 100, range(80))
    with OpWriter(directory.ops_file("load-1")) as writer:
        for seq in (3, 3, 150, 90):  # twice too often, once not due, once in time
            writer.append(load_op(seq))
    run = read_run(tmp_path)
    assert run.load.seq.tolist() == list(range(100))
    assert run.duplicates == 3
    missing = np.flatnonzero(run.load.error.where(NO_RECORD))
    assert missing.tolist() == [*range(80, 90), *range(91, 100)]
    assert {run.load.outcome[int(i)] for i in missing} == {"unknown"}
    assert [(run.load.model[i], run.load.kind[i]) for i in (80, 81)] == [("chatty", "chat"), ("vectors", "embedding")]
    assert run.load.t_intended[missing].tolist() == [START + int(i) * GAP for i in missing]


@given(st.sets(st.integers(0, 59)), st.lists(st.integers(-5, 90), max_size=8))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_join_never_loses_nor_invents_a_send(
    tmp_path_factory: pytest.TempPathFactory, run_in: MakeRun, load_op: LoadOp, gone: set[int], extra: list[int]
) -> None:
    path = tmp_path_factory.mktemp("join")
    directory = run_in(path, 60, sorted(set(range(60)) - gone))
    with OpWriter(directory.ops_file("load-1")) as writer:
        for seq in extra:
            writer.append(msgspec.structs.replace(load_op(max(seq, 0)), seq=seq))
    run = read_run(path)
    assert run.load.seq.tolist() == list(range(60))
    unknown = set(np.flatnonzero(run.load.error.where(NO_RECORD)).tolist())
    assert unknown == gone - set(extra)
    assert len(run.load) - len(unknown) + run.duplicates == 60 - len(gone) + len(extra)


def test_without_a_stop_the_load_counts_until_the_last_record(tmp_path: Path, run_in: MakeRun) -> None:
    run_in(tmp_path, 100, range(60), stopped=False)
    run = read_run(tmp_path)
    assert len(run.load) == 60
    assert load_bounds(run.history)[0] == START
    assert load_bounds(columns([])) == (-1, -1)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_merge_is_read_as_far_as_it_goes(tmp_path: Path, run_in: MakeRun, share: float) -> None:
    directory = run_in(tmp_path, 100)
    merge(directory)
    data = directory.history.read_bytes()
    directory.history.write_bytes(data[: int(len(data) * share)])
    run = read_run(tmp_path)
    assert run.history.truncated
    assert run.history.damaged >= 1
    assert len(run.history.requests) <= 100
    result = analyze(run)
    assert result.verdict == "unknown"
    encode_result(result)


def test_numbers_that_cannot_be_are_damaged_lines(tmp_path: Path, load_op: LoadOp) -> None:
    directory = RunDirectory(tmp_path)
    directory.ops.mkdir()
    good = encode(load_op(0))
    huge = good.replace(b'"t_intended":1000000000000', b'"t_intended":99999999999999999999')
    large = good.replace(b'"t_intended":1000000000000', b'"t_intended":9000000000000000000')
    event = huge.replace(b'"load"', b'"observer"')
    lines = [good, huge, large, event, b"[1]", b"\xff\xfe", b"", b'{"source":"load"}', b"[" * 5_000]
    directory.ops_file("load-0").write_bytes(b"\n".join(lines))
    found = read_history(directory)
    assert (len(found.requests), len(found.events), found.damaged) == (1, 0, 7)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_never_raise_and_never_pass(
    tmp_path_factory: pytest.TempPathFactory, run_in: MakeRun, flips: list[tuple[int, int]], merged: bool
) -> None:
    """The run is unknown (no fault was injected); no damage to its ops may make a pass of it."""
    path = tmp_path_factory.mktemp("flip")
    directory = run_in(path, 40)
    if merged:
        merge(directory)
    target = directory.history if merged else directory.ops_file("load-0")
    data = bytearray(target.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    target.write_bytes(bytes(data))
    run = read_run(path)
    result = analyze(run)
    assert result.verdict == "unknown"
    assert len(run.load) <= 80
    encode_result(result)


def test_a_flipped_digit_in_a_merged_file_is_noticed(tmp_path: Path, run_in: MakeRun) -> None:
    """JSON cannot tell a changed digit; the checksum of the merged file can."""
    directory = run_in(tmp_path, 100)
    merge(directory)
    raw = directory.history.read_bytes()
    directory.history.write_bytes(raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:])
    assert read_run(tmp_path).history.truncated


def test_blocks_are_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_in: MakeRun) -> None:
    directory = run_in(tmp_path, 100)
    monkeypatch.setattr(files, "BLOCK_BYTES", 1_000)
    monkeypatch.setattr(files, "_FEED_BYTES", 64)
    parts = list(files.blocks(directory))
    assert len(parts) > 5
    assert all(part.endswith(b"\n") for part in parts)
    assert len(read_history(directory).requests) == 100
    merge(directory)
    assert len(read_history(directory).requests) == 100
    assert list(files.whole_lines([b"a", b"b\nc", b"d"])) == [b"ab\ncd"]


def test_what_is_no_run_directory_says_so(tmp_path: Path, run_in: MakeRun) -> None:
    with pytest.raises(UsageError, match="not a run directory") as caught:
        read_run(tmp_path)
    assert "blackstart run" in caught.value.hint
    directory = run_in(tmp_path)
    directory.schedule.write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        read_run(tmp_path)
    for data in (b'{"offset_ns":[1],"entry":[]}', b'{"offset_ns":[1]}', b'{"offset_ns":[1],"entry":[99999999]}', b"[]"):
        directory.schedule.write_bytes(gzip.compress(data))
        with pytest.raises(UsageError, match="cannot be read"):
            read_run(tmp_path)
    directory.header.write_bytes(b"{}")
    with pytest.raises(UsageError, match="cannot be read"):
        read_run(tmp_path)


def test_header_and_schedule_come_back(tmp_path: Path, run_in: MakeRun) -> None:
    directory = run_in(tmp_path, 10)
    again = RunDirectory(tmp_path)
    again.write_header(directory.read_header())
    assert again.read_header() == directory.read_header()
    assert len(again.read_schedule()) == 20
    assert not list(tmp_path.glob("*.part"))
    assert {op.source for op in read_run(tmp_path).history.events} == {"runner"}
    assert read_run(tmp_path).load.source.where(LOAD).all()
