"""Small run directories, written as processes write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from history.op import LOAD, LOAD_DRAINED, LOAD_START, LOAD_STOP, RUNNER, Op
from history.records import Mix, MixEntry
from history.rundir import RunDirectory, Schedule
from history.writer import OpWriter
from tests import headers

MS = 1_000_000
START = 1_000_000 * MS
GAP = 10 * MS

MakeRun = Callable[..., RunDirectory]


MIX = Mix((MixEntry("chatty", "chat", 0.5), MixEntry("vectors", "embedding", 0.5)))


def make_load_op(seq: int) -> Op:
    t = START + seq * GAP
    kind, model = (("chat", "chatty"), ("embedding", "vectors"))[seq % 2]
    return Op(source=LOAD, process="load-0", kind=kind, model=model, seq=seq, t_intended=t, t_sent=t, t_done=t + MS,
              outcome="ok", cluster="amber", weights="resident")  # fmt: skip


def make_run(path: Path, sends: int = 100, recorded: range | None = None, stopped: bool = True) -> RunDirectory:
    directory = RunDirectory(path)
    directory.write_header(headers.header(mix=MIX))
    count = sends * 2
    directory.write_schedule(Schedule(np.arange(count, dtype=np.int64) * GAP, (np.arange(count) % 2).astype(np.int16)))
    with OpWriter(directory.ops_file("load-0")) as writer:
        for seq in recorded if recorded is not None else range(sends):
            writer.append(make_load_op(seq))
    with OpWriter(directory.ops_file("runner")) as writer:
        stop = START + sends * GAP
        for kind, t in ((LOAD_START, START), (LOAD_STOP, stop), (LOAD_DRAINED, stop)):
            if stopped or kind == LOAD_START:
                writer.append(Op(source=RUNNER, process="runner", kind=kind, t_intended=t, t_done=t, outcome="ok"))
    return directory


@pytest.fixture(scope="session")
def load_op() -> Callable[[int], Op]:
    """The load op of a ``seq``, as recorded."""
    return make_load_op


@pytest.fixture(scope="session")
def run_in() -> MakeRun:
    """Writes a run directory: ``sends`` due of a schedule twice as long, ``recorded`` of them on disk."""
    return make_run
