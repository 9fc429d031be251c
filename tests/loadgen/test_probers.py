"""The two probers: on their grid whatever they meet, and a word for everything that they meet."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import gevent
import numpy as np
import psutil
import pytest
from aiohttp import web

from history.clock import NS_PER_S
from history.op import CANARY, CLUSTER_PROBER, DROPPED, NOT_DRAINED, PROBE_API, PROBE_DATA, PROBE_ENTRY, Op
from history.reader import Requests, read_history
from history.records import ClusterFacts, Mix, MixEntry, NodeFacts
from history.records import Target as Entry
from history.rundir import RunDirectory
from loadgen.client import Client
from loadgen.control import EXIT_RECORDING
from loadgen.probers import Prober, canary, probe_run
from loadgen.process import ProberProcess

if TYPE_CHECKING:
    from tests.loadgen.load_runs import ROOT, prepared, wait_for
else:
    from load_runs import ROOT, prepared, wait_for

MIX = Mix((MixEntry("a", "chat", 0.5), MixEntry("b", "completion", 0.3), MixEntry("c", "embedding", 0.2)))


class Target:
    """An aiohttp server: a good entry point, and addresses of every kind of trouble."""

    def __init__(self) -> None:
        self.connections: set[tuple[str, int]] = set()
        self.asked: list[dict[str, object]] = []

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/{kind:.*}", self.answer)
        app.router.add_get("/healthz", self.healthy)
        app.router.add_get("/hang", self.hang)
        app.router.add_get("/cut", self.cut)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        self.ready.set()
        await self.over.wait()
        await runner.cleanup()

    def __enter__(self) -> Target:
        self.ready = threading.Event()
        self.thread = threading.Thread(target=asyncio.run, args=(self.serve(),))
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(5)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername"))
        self.asked.append(body)
        served = {"x-served-by": "amber/n1/r1", "x-weights": "local"}
        if body["model"] == "c":
            return web.json_response({"data": [{"embedding": [1.0]}]}, headers=served)
        choice = {"message": {"content": "w"}, "text": "w", "finish_reason": "length"}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": 1}}, headers=served)

    async def healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def hang(self, request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def cut(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b"only this")
        assert request.transport is not None
        request.transport.abort()
        return answer


def test_a_pool_has_one_turn_whatever_its_size() -> None:
    """Hundreds of fine-tunes must not keep the canary from the other models: each pool's take its turn in turn."""
    names = ("a", "ft-1", "ft-2", "ft-3", "b")
    mix = Mix(tuple(MixEntry(name, "chat", 0.2) for name in names))
    models = (SimpleNamespace(name="a", fine_tunes=()), SimpleNamespace(name="pool", fine_tunes=names[1:4]),
              SimpleNamespace(name="b", fine_tunes=()))  # fmt: skip
    header: Any = SimpleNamespace(
        mix=mix, fleet=SimpleNamespace(models=models), target=Entry("http://127.0.0.1:1"),
        load=SimpleNamespace(connect_timeout_s=1.0, total_timeout_s=5.0),
    )  # fmt: skip
    prober = canary(header, lambda op: None, lambda: 0)
    asked = [prober._client.unknown(number, prober._ask_of(number), 0, DROPPED).model for number in range(9)]
    assert asked == ["a", "ft-1", "b", "a", "ft-2", "b", "a", "ft-3", "b"]


@pytest.fixture
def full_queue() -> Iterator[str]:
    """A URL where connection attempts are met with silence."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for filler in fillers:
            filler.close()


def closed_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def probed(folder: Path, seconds: float, silent: str) -> tuple[Requests, Target]:
    """Probes a target with two clusters for a while, in this process; returns what was recorded."""

    with Target() as target:
        well = ClusterFacts(
            "amber",
            (NodeFacts("n1", 1), NodeFacts("n2", 1)),
            f"{target.url}/healthz",
            (f"{target.url}/cut", closed_url()),
        )
        ill = ClusterFacts("cobalt", (NodeFacts("n3", 1),), silent, (f"{target.url}/hang", f"{target.url}/none"))
        run = prepared(folder, target.url, clusters=(well, ill), mix=MIX)
        gevent.spawn_later(seconds, os.kill, os.getpid(), signal.SIGTERM)  # probe_run takes the signal over
        probe_run(run, os.getppid())
    return read_history(RunDirectory(folder / "run")).requests, target


def test_what_the_probers_record(tmp_path: Path, full_queue: str) -> None:
    requests, target = probed(tmp_path, 1.6, full_queue)
    canaries = requests.take(requests.source.where(CANARY))
    assert 29 <= len(canaries) <= 33
    assert canaries.kind.where(PROBE_ENTRY).all()
    assert canaries.outcome.where("ok").all()
    assert (np.diff(canaries.t_intended) == NS_PER_S // 20).all()
    assert canaries.seq.tolist() == list(range(len(canaries)))
    assert [canaries.model[i] for i in range(6)] == ["a", "b", "c", "a", "b", "c"]
    assert (canaries.cluster[0], canaries.node[0], canaries.replica[0], canaries.weights[0]) == (
        "amber",
        "n1",
        "r1",
        "local",
    )
    assert len(target.connections) == len(canaries)  # a new connection each time
    assert all(body.get("max_tokens", 1) == 1 for body in target.asked)

    clusters = requests.take(requests.source.where(CLUSTER_PROBER))
    seen = {
        (clusters.kind[i], clusters.cluster[i], clusters.node[i], clusters.error[i], int(clusters.status[i]))
        for i in range(len(clusters))
    }
    assert seen == {
        (PROBE_API, "amber", "", "", 200),
        (PROBE_DATA, "amber", "n1", "cut-stream", 200),
        (PROBE_DATA, "amber", "n2", "refused", 0),
        (PROBE_API, "cobalt", "", NOT_DRAINED, 0),  # six seconds were not over
        (PROBE_DATA, "cobalt", "", NOT_DRAINED, 0),
        (PROBE_DATA, "cobalt", "", "http-404", 404),
    }
    for kind, cluster, node, addresses in [
        (PROBE_API, "amber", "", 1),
        (PROBE_DATA, "amber", "n1", 1),
        (PROBE_DATA, "amber", "n2", 1),
        (PROBE_API, "cobalt", "", 1),
        (PROBE_DATA, "cobalt", "", 2),
    ]:
        mine = clusters.kind.where(kind) & clusters.cluster.where(cluster) & clusters.node.where(node)
        assert 6 <= np.count_nonzero(mine) / addresses <= 8
    late_ns = clusters.t_sent - clusters.t_intended
    assert late_ns.min() >= 0
    assert np.median(late_ns) < 20_000_000


def test_time_limits_of_a_probe_have_names(tmp_path: Path, full_queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.probers.CLUSTER_LIMIT_S", 0.2)
    requests, _ = probed(tmp_path, 0.9, full_queue)
    errors = {
        (requests.kind[i], requests.error[i]): (requests.t_done[i] - requests.t_sent[i]) / NS_PER_S
        for i in range(len(requests))
        if requests.cluster[i] == "cobalt"
    }
    assert 0.2 <= errors[PROBE_API, "connect-timeout"] < 0.4
    assert 0.2 <= errors[PROBE_DATA, "timeout"] < 0.4


class Slow:
    """Stands for a client: answers after a while, and says what it was asked."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s

    def send(self, seq: int, ask: int, t_intended: int) -> Op:
        try:
            gevent.sleep(self.latency_s)
        except gevent.GreenletExit:
            return self.unknown(seq, ask, t_intended, NOT_DRAINED)
        return self.unknown(seq, ask, t_intended, "")

    def unknown(self, seq: int, ask: int, t_intended: int, error: str, why: str = "") -> Op:
        return Op(
            source=CANARY, process="probers", kind=PROBE_ENTRY, t_intended=0, outcome="unknown", seq=seq, error=error
        )


def grid(latency_s: float, rate_rps: float, start_ns: int, seconds: float, most_in_flight: int = 128) -> list[Op]:
    """What one grid records until it is killed."""
    ops: list[Op] = []
    client = cast(Client, Slow(latency_s))
    prober = Prober(rate_rps, client, lambda number: 0, ops.append, most_in_flight=most_in_flight)
    running = gevent.spawn(prober.run, start_ns)
    gevent.sleep(seconds)
    running.kill()
    return ops


def test_hanging_probes_do_not_hold_back_the_grid_but_are_bounded() -> None:
    ops = grid(60.0, 100.0, time.monotonic_ns(), 0.15, most_in_flight=5)
    errors = Counter(op.error for op in ops)
    assert errors[NOT_DRAINED] == 5
    assert errors[DROPPED] >= 5
    assert sorted(op.seq for op in ops) == list(range(len(ops)))
    assert {op.outcome for op in ops} == {"unknown"}


def test_probes_that_a_stopped_process_missed_are_dropped() -> None:
    ops = grid(0.0, 20.0, time.monotonic_ns() - 3 * NS_PER_S, 0.1)
    assert 39 <= sum(op.error == DROPPED for op in ops) <= 41  # those more than a second late
    assert sum(op.error == "" for op in ops) >= 20


def lines(run: RunDirectory) -> int:
    file = run.ops_file("probers")
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_the_process_starts_stops_and_reports(tmp_path: Path) -> None:
    run = prepared(tmp_path, closed_url())
    probers = ProberProcess(run)
    probers.start()
    wait_for(lambda: lines(run) > 5)
    assert probers.poll() is None
    probers.stop()
    assert "exit code 0" in (probers.poll() or "")
    probers.stop()
    requests = read_history(run).requests
    assert requests.error.where("refused").all()
    assert requests.process.where("probers").all()


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    run = prepared(tmp_path, closed_url())
    script = (
        "import time\nfrom pathlib import Path\nfrom history.rundir import RunDirectory\n"
        f"from loadgen.process import ProberProcess\np = ProberProcess(RunDirectory(Path({str(run.path)!r})))\n"
        "p.start()\nprint(p.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        wait_for(lambda: lines(run) > 3)
        parent.kill()
        parent.wait()
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 5)


def test_a_full_disk_ends_the_probers_and_says_so(tmp_path: Path) -> None:
    run = prepared(tmp_path, closed_url())
    probers = ProberProcess(run)
    probers.start()
    wait_for(lambda: lines(run) > 3)
    assert probers.pid is not None
    resource.prlimit(probers.pid, resource.RLIMIT_FSIZE, (2_000, 2_000))
    wait_for(lambda: probers.poll() is not None)
    said = probers.poll()
    assert said is not None
    assert f"exit code {EXIT_RECORDING}" in said
    assert "cannot record to" in said
    assert "Traceback" not in said


def test_without_a_run_there_is_nothing_to_probe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadgen.probers", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4
    assert "has no header.json" in done.stderr
    assert "Traceback" not in done.stderr
