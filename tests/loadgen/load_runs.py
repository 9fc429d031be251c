"""Helpers for tests that run the real load: a cheap server, a prepared run directory, a runner's events."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from history.clock import NS_PER_S, now_ns
from history.op import LOAD_START, LOAD_STOP, RUNNER, Op
from history.records import ClusterFacts, FleetFacts, LoadSpec, Mix, MixEntry, Target
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.byhand import make_run
from loadgen.process import LOCUSTFILE, LoadProcess

SERVER = Path(__file__).with_name("scripted_server.py")
ROOT = LOCUSTFILE.parents[1]
MIX = Mix((MixEntry("a", "chat", 0.7), MixEntry("b", "completion", 0.3)))


@contextmanager
def cheap_server() -> Iterator[str]:
    """A server that answers everything at once; yields its URL."""
    child = subprocess.Popen([sys.executable, str(SERVER), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(b'{"servers": [{"name": "server", "mode": "none", "host": "127.0.0.1"}]}\n')
        child.stdin.flush()
        yield "http://127.0.0.1:{}".format(json.loads(child.stdout.readline())["ports"]["server"])
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def prepared(
    folder: Path,
    url: str,
    *,
    rate_rps: float = 100.0,
    horizon_s: float = 30.0,
    total_timeout_s: float = 1.0,
    clusters: tuple[ClusterFacts, ...] = (),
    mix: Mix = MIX,
    connect_timeout_s: float = 0.5,
) -> RunDirectory:
    """A run directory with header and plan, ready to be sent."""
    load = LoadSpec("constant", rate_rps, 300.0, connect_timeout_s, total_timeout_s, horizon_s, seed=3)
    fleet = FleetFacts("none", clusters, (), ())
    return make_run(RunDirectory(folder / "run"), Target(url), mix, load, fleet=fleet)


class Runner:
    """Does what the runner does with a load process, and writes its events."""

    def __init__(self, run: RunDirectory, processes: int = 1) -> None:
        self.run = run
        self.load = LoadProcess(run, processes)
        self.start_ns = 0

    def __enter__(self) -> Runner:
        self.load.start()
        self.load.wait_ready(30)
        self.start_ns = self.load.begin()
        self.event(LOAD_START, self.start_ns)
        return self

    def __exit__(self, *_: object) -> None:
        self.load.kill()

    def at(self, offset_s: float) -> int:
        """Waits until that offset of the plan; returns the instant."""
        instant = self.start_ns + int(offset_s * NS_PER_S)
        while (left := instant - now_ns()) > 0:
            time.sleep(left / NS_PER_S)
        return instant

    def stop(self, offset_s: float) -> int:
        """Stops at that offset, a moment before it; returns the instant."""
        self.at(offset_s - 0.2)
        stop_ns = self.load.stop(self.start_ns + int(offset_s * NS_PER_S))
        self.event(LOAD_STOP, stop_ns)
        return stop_ns

    def event(self, kind: str, t_ns: int) -> None:
        with OpWriter(self.run.ops_file("runner")) as writer:
            writer.append(Op(source=RUNNER, process="runner", kind=kind, t_intended=t_ns, t_done=t_ns, outcome="ok"))


def locust(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Locust as a person starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def wait_for(condition: Any, timeout_s: float = 20.0) -> None:
    """Waits until the condition holds; fails loudly when it does not in time."""
    deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
    while not condition():
        assert now_ns() < deadline_ns, f"not within {timeout_s} s"
        time.sleep(0.02)
