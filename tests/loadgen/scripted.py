"""Cases with known outages, run by the real load process: the calibration of *service back*.

``run_cases`` makes one run directory with many cases in it, each a model with a scripted server of its own (its own
address, so that a refused or frozen one is refused or frozen for that model only) and an outage of its own length.
All break at the injection; FAULT_HEAL comes at the end, as when the lost cluster returns after everything recovered.
``Truth`` is what the servers and the harness read on the run's clock around the act that ended each outage.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from history.clock import NS_PER_S, now_ns
from history.op import (
    FAULT_HEAL,
    FAULT_HEALED,
    FAULT_INJECT,
    FAULT_VERIFIED,
    LOAD_DRAINED,
    LOAD_START,
    LOAD_STOP,
    RUNNER,
    Op,
    Outcome,
)
from history.records import (
    ClusterFacts,
    FaultMark,
    FleetFacts,
    LoadSpec,
    Mix,
    MixEntry,
    ModelFacts,
    NodeFacts,
    Placement,
    StepFacts,
    Target,
)
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.byhand import make_run
from loadgen.process import LoadProcess

SERVER = Path(__file__).with_name("scripted_server.py")
IN_SERVER = ("refused", "backlog", "stall", "hang", "cut", "http-429", "http-503")
FROM_OUTSIDE = ("frozen", "black-hole")
TABLE = "blackstart_scripted"


@dataclass(frozen=True)
class Case:
    """One outage: ``mode`` as in ``scripted_server``, or frozen (SIGSTOP), or black-hole (packets dropped, root)."""

    name: str
    mode: str
    outage_s: float


@dataclass(frozen=True)
class Truth:
    """The outage of a case ended between these two clock readings."""

    before_ns: int
    after_ns: int


@dataclass(frozen=True)
class Setting:
    """How a set of cases is run."""

    seed: int = 1
    rate_rps: float = 20.0
    """For each case."""
    good_within_ms: float = 400.0
    total_timeout_s: float = 2.5
    baseline_s: float = 2.0
    after_s: float = 4.5
    """From the last end of an outage on: a hold of 3 s, and room for a late start."""
    processes: int = 1


def modes() -> tuple[str, ...]:
    """What this machine can script: the black hole needs root and nft."""
    return IN_SERVER + FROM_OUTSIDE if can_drop_packets() else (*IN_SERVER, "frozen")


def can_drop_packets() -> bool:
    """A rule that drops packets can be made here."""
    try:
        made = subprocess.run(["nft", "add", "table", "inet", f"{TABLE}_probe"], capture_output=True, check=False)
        subprocess.run(["nft", "delete", "table", "inet", f"{TABLE}_probe"], capture_output=True, check=False)
    except OSError:
        return False
    return made.returncode == 0


def draw_cases(seed: int, count: int) -> tuple[Case, ...]:
    """Seeded cases over all modes in turn; outages of 0.8 to 3 s."""
    dice, known = random.Random(seed), modes()
    return tuple(
        Case(f"case-{seed}-{i}-{known[i % len(known)]}", known[i % len(known)], dice.uniform(0.8, 3.0))
        for i in range(count)
    )


def run_case(case: Case, out_dir: Path, setting: Setting | None = None) -> tuple[RunDirectory, Truth]:
    """One case alone."""
    run, truths = run_cases([case], out_dir, setting)
    return run, truths[case.name]


def run_cases(
    cases: Sequence[Case], out_dir: Path, setting: Setting | None = None
) -> tuple[RunDirectory, dict[str, Truth]]:
    """All cases at once in one load; the run directory is as the runner would have left it."""
    setting = setting or Setting()
    run = RunDirectory(out_dir)
    with Servers(cases) as servers:
        load = LoadProcess(run, setting.processes)
        try:
            _prepare(run, cases, servers.urls, setting)
            with OpWriter(run.ops_file("runner")) as writer:
                _drive(load, servers, Events(writer), cases, setting)
        finally:
            load.kill()
        return run, servers.truths()


class Events:
    """Writes events as the runner does."""

    def __init__(self, writer: OpWriter) -> None:
        self._writer = writer

    def write(self, kind: str, t_ns: int, *, outcome: Outcome = "ok", done_ns: int = 0, **fields: Any) -> None:
        done = done_ns or t_ns
        op = Op(source=RUNNER, process="runner", kind=kind, t_intended=t_ns, t_done=done, outcome=outcome, **fields)
        self._writer.append(op)


def _drive(load: LoadProcess, servers: Servers, events: Events, cases: Sequence[Case], setting: Setting) -> None:
    load.start()
    load.wait_ready(30)
    start_ns = load.begin(now_ns() + NS_PER_S // 2)
    events.write(LOAD_START, start_ns)
    inject_ns = start_ns + int(setting.baseline_s * NS_PER_S)
    up_ns = {case.name: inject_ns + int(case.outage_s * NS_PER_S) for case in cases}
    heal_ns = max(up_ns.values()) + int(setting.after_s * NS_PER_S)
    servers.plan(inject_ns + NS_PER_S // 1000, up_ns)  # the injection is called, then it takes effect
    _sleep_until(inject_ns)
    events.write(FAULT_INJECT, inject_ns, t_sent=inject_ns, done_ns=now_ns(), cluster="scripted")
    _sleep_until(inject_ns + NS_PER_S // 2)
    seen = [{"name": name, "ok": True, "seen": "down by its script"} for name in ("servers", "harness")]
    events.write(FAULT_VERIFIED, inject_ns, done_ns=now_ns(), cluster="scripted", detail={"signals": seen})
    _sleep_until(heal_ns)
    events.write(FAULT_HEAL, heal_ns, t_sent=heal_ns, done_ns=now_ns(), cluster="scripted")
    seen = [{"name": name, "ok": True, "seen": "up by its script"} for name in ("servers", "harness")]
    events.write(FAULT_HEALED, heal_ns, done_ns=now_ns(), cluster="scripted", detail={"signals": seen})
    stop_ns = load.stop(heal_ns + NS_PER_S // 2)
    events.write(LOAD_STOP, stop_ns)
    wrong = load.wait_drained(setting.total_timeout_s + 10)
    events.write(LOAD_DRAINED, stop_ns, done_ns=now_ns(), outcome="fail" if wrong else "ok")
    assert wrong is None, wrong


class Servers:
    """The servers of a set of cases: one process, and one more for each case that is broken from outside."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._cases = cases
        self._children: list[subprocess.Popen[bytes]] = []
        self._of: dict[str, subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._truths: dict[str, Truth] = {}
        self._hosts = {case.name: f"127.77.{i // 250}.{i % 250 + 1}" for i, case in enumerate(cases)}
        self.urls: dict[str, str] = {}

    def __enter__(self) -> Servers:
        together = [case for case in self._cases if case.mode in IN_SERVER]
        for group in [together, *([case] for case in self._cases if case.mode in FROM_OUTSIDE)]:
            if group:
                self._spawn(group)
        if any(case.mode == "black-hole" for case in self._cases):
            nft(f"add table ip {TABLE}")
            nft(f"add chain ip {TABLE} input {{ type filter hook input priority 0 ; }}")
        return self

    def _spawn(self, group: Sequence[Case]) -> None:
        child = subprocess.Popen([sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._children.append(child)
        self._of |= {case.name: child for case in group}
        mode = {case.name: case.mode if case.mode in IN_SERVER else "none" for case in group}
        servers = [{"name": case.name, "mode": mode[case.name], "host": self._hosts[case.name]} for case in group]
        _write(child, {"servers": servers})
        for name, port in _read(child)["ports"].items():
            self.urls[name] = f"http://{self._hosts[name]}:{port}"

    def plan(self, down_ns: int, up_ns: dict[str, int]) -> None:
        """Tells every server when it breaks and heals; breaks and heals from outside in threads."""
        for child in self._children:
            _write(child, {"down_ns": down_ns, "up_ns": up_ns})
        for case in self._cases:
            if case.mode in FROM_OUTSIDE:
                break_it, heal_it = self._acts(case)
                thread = threading.Thread(
                    target=self._outage, args=(case.name, down_ns, up_ns[case.name], break_it, heal_it)
                )
                self._threads.append(thread)
                thread.start()

    def _acts(self, case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
        if case.mode == "frozen":
            pid = self._of[case.name].pid
            return lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT)
        rule = f"ip {TABLE} input"
        drop = f"ip daddr {self._hosts[case.name]} drop"
        handle: list[str] = []

        def vanish() -> None:
            said = nft(f"add rule {rule} {drop}", "--echo", "--handle")
            handle.append(said.rsplit("handle", 1)[1].split()[0])

        return vanish, lambda: nft(f"delete rule {rule} handle {handle[0]}")

    def _outage(
        self, name: str, down_ns: int, up_ns: int, break_it: Callable[[], object], heal_it: Callable[[], object]
    ) -> None:
        _sleep_until(down_ns)
        break_it()
        _sleep_until(up_ns)
        before_ns = now_ns()
        heal_it()
        self._truths[name] = Truth(before_ns, now_ns())

    def truths(self) -> dict[str, Truth]:
        """When each outage really ended; ends the servers."""
        for thread in self._threads:
            thread.join(30)
        told = dict(self._truths)
        for child in self._children:
            assert child.stdin is not None
            child.stdin.close()
            for name, (before_ns, after_ns) in _read(child)["truth"].items():
                told.setdefault(name, Truth(before_ns, after_ns))
        assert all(truth.before_ns for truth in told.values()), told
        return told

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        if any(case.mode == "black-hole" for case in self._cases):
            nft(f"delete table ip {TABLE}")


def nft(command: str, *options: str) -> str:
    """Runs one nft command; returns what it printed."""
    done = subprocess.run(["nft", *options, *command.split()], capture_output=True, text=True, check=True)
    return done.stdout


def _write(child: subprocess.Popen[bytes], value: object) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(value).encode() + b"\n")
    child.stdin.flush()


def _read(child: subprocess.Popen[bytes]) -> Any:
    out: IO[bytes] | None = child.stdout
    assert out is not None
    return json.loads(out.readline())


def _sleep_until(due_ns: int) -> None:
    while (left := due_ns - now_ns()) > 0:
        time.sleep(left / NS_PER_S)


def _prepare(run: RunDirectory, cases: Sequence[Case], urls: dict[str, str], setting: Setting) -> None:
    share = 1 / len(cases)
    mix = Mix(tuple(MixEntry(case.name, "chat", share) for case in cases))
    horizon_s = setting.baseline_s + max(case.outage_s for case in cases) + setting.after_s + 2
    load = LoadSpec(
        shape="constant",
        rate_rps=setting.rate_rps * len(cases),
        good_within_ms=setting.good_within_ms,
        connect_timeout_s=0.9,
        total_timeout_s=setting.total_timeout_s,
        horizon_s=horizon_s,
        seed=setting.seed,
    )
    models = tuple(ModelFacts(case.name, "chat", "scripted", 0, 1, 1, 0, share) for case in cases)
    nodes = (NodeFacts("node-1", len(cases)),)
    placements = tuple(Placement(case.name, "scripted", "node-1", "server-1") for case in cases)
    make_run(
        run,
        Target(next(iter(urls.values())), model_urls=tuple(urls.items())),
        mix,
        load,
        fleet=FleetFacts("scripted", (ClusterFacts("scripted", nodes, "", ()),), models, placements),
        steps=(StepFacts("Inject", "scripted outages"),),
        faults=(FaultMark("Scripted", "scripted", "scripted", "scripted outages"),),
    )
