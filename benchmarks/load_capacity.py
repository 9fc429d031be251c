"""Prints what one load process holds: `python benchmarks/load_capacity.py [--rate 2000] [--seconds 15] [--hogs 0]`.

Sends streaming chat requests (8 tokens) at a constant rate to a cheap server process on loopback and prints the
achieved rate, the send lag and what was recorded. Bar: lag p99 <= 20 ms at 2,000 rps on 2 cores. Exit 1 when missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from history.clock import NS_PER_S, now_ns
from history.op import LOAD_START, LOAD_STOP, RUNNER, Op
from history.reader import Run, read_run
from history.records import LoadSpec, Mix, MixEntry, Target
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.byhand import make_run
from loadgen.process import LoadProcess

SERVER = Path(__file__).parents[1] / "tests" / "loadgen" / "scripted_server.py"
LAG_MS_P99_BAR = 20.0
MODELS = 10
BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def prepare(run: RunDirectory, entry_url: str, rate_rps: float, seconds: float) -> None:
    """A run directory for a load of ``MODELS`` models in equal shares."""
    mix = Mix(tuple(MixEntry(f"model-{i}", "chat", 1 / MODELS) for i in range(MODELS)))
    load = LoadSpec("constant", rate_rps, 500.0, 0.9, 5.0, seconds, seed=1)
    make_run(run, Target(entry_url), mix, load)


def measure(folder: Path, rate_rps: float, seconds: float, processes: int) -> Run:
    """Runs the load against the server and reads back what was recorded."""
    run = RunDirectory(folder)
    server = subprocess.Popen([sys.executable, str(SERVER), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    load = LoadProcess(run, processes)
    try:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(b'{"servers": [{"name": "server", "mode": "none", "host": "127.0.0.1"}]}\n')
        server.stdin.flush()
        port = json.loads(server.stdout.readline())["ports"]["server"]
        prepare(run, f"http://127.0.0.1:{port}", rate_rps, seconds)
        with OpWriter(run.ops_file("benchmark")) as events:
            load.start()
            load.wait_ready(30)
            start_ns = load.begin()
            events.append(_event(LOAD_START, start_ns))
            stop_ns = start_ns + int(seconds * NS_PER_S)
            time.sleep(max((stop_ns - now_ns()) / NS_PER_S - 0.5, 0))
            events.append(_event(LOAD_STOP, load.stop(stop_ns)))
            if wrong := load.wait_drained(10):
                sys.exit(f"the load failed: {wrong}")
    finally:
        load.kill()
        server.kill()
        server.wait()
    return read_run(folder)


def _event(kind: str, t_ns: int) -> Op:
    return Op(source=RUNNER, process="benchmark", kind=kind, t_intended=t_ns, t_done=t_ns, outcome="ok")


def main() -> int:
    """Measures, prints, compares with the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--hogs", type=int, default=0, help="busy loops beside the load")
    options = parser.parse_args()
    hogs = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(options.hogs)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = measure(Path(folder), options.rate, options.seconds, options.processes)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    load = run.load
    sent = load.t_sent >= 0
    lag_ms = (load.t_sent[sent] - load.t_intended[sent]) / 1e6
    latency_ms = (load.t_done[sent] - load.t_intended[sent]) / 1e6
    lag_p50, lag_p99, lag_max = np.percentile(lag_ms, [50, 99, 100], method="inverted_cdf")
    rate = np.count_nonzero(sent) / ((load.t_sent[sent].max() - load.t_sent[sent].min()) / NS_PER_S)
    ok = int(np.count_nonzero(load.outcome.where("ok")))
    print(f"scheduled {len(load):,}  sent {np.count_nonzero(sent):,}  ok {ok:,}  achieved {rate:,.0f} rps")
    print(f"send lag ms      p50 {lag_p50:.2f}  p99 {lag_p99:.2f}  max {lag_max:.2f}  (bar: p99 <= {LAG_MS_P99_BAR:g})")
    print("latency ms       p50 {:.2f}  p99 {:.2f}".format(*np.percentile(latency_ms, [50, 99], method="inverted_cdf")))
    return 0 if lag_p99 <= LAG_MS_P99_BAR and ok == len(load) and not run.duplicates else 1


if __name__ == "__main__":
    raise SystemExit(main())
