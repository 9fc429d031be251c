"""The Locust side of the load: `locust -f loadgen/locustfile.py`, with Locust's web page, workers and processes.

Sends are the ``Sender``'s: one a scheduled send, at its intended time, whatever the answers do. Locust brings the
processes, the web page and its statistics (for looking at; verdicts rest on our own ops). One user a worker is all
that its engine needs. This is the only module that imports locust; ``LoadProcess`` starts it headless and
``managed``: then the runner says when to start and stop. By hand, Locust's master (or single process) does.

Each worker sends the plan's ``seq % workers == index``. The master deals the indices out at the start, among the
workers connected then, and sends them along with the options (Locust's own worker_index may have holes after a
worker came and went). A worker on another host is refused: its monotonic clock is another one (DESIGN 3.2).

Locust prints its --help before it reads a locustfile; `python -m loadgen.locustfile` prints it with our options.
"""

# mypy: disable-error-code="misc, untyped-decorator"
# (mypy skips locust: its User and its decorators are Any here)

from __future__ import annotations

import gc
import logging
import os
import signal
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, User, events, task
from locust.argument_parser import get_parser
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from history.clock import boot_id
from history.errors import BlackstartError
from history.op import LOAD, Op
from history.priority import go_first
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.byhand import ByHand
from loadgen.client import Client, asks_of
from loadgen.control import EXIT_REFUSED, ControlFiles
from loadgen.process import PARENT_PID
from loadgen.schedule import slice_of
from loadgen.sender import POLL_S, Sender, Slice

log = logging.getLogger("blackstart.load")

REFUSED_MESSAGE = "blackstart.refused"
PLAN = "blackstart_plan"
"""The option by which the master tells each worker its run directory, its slice and the host it must be on."""

_BY_HAND = "_blackstart_by_hand"
_SENDERS: list[Sender] = []
"""This process's sender, the last one first; empty in a master."""


class RequestFailed(Exception):
    """What Locust's page counts as a failure: our error category."""


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Options of a load started by hand; Locust's web page shows them as fields."""
    add = parser.add_argument
    hidden: dict[str, Any] = {"include_in_web_ui": False}
    add("--run", default="", help="run directory of a prepared run: send its plan, ignore all options below")
    add("--entry", default="", help="entry URL of an OpenAI-compatible service [--host, else http://127.0.0.1:8080]")
    add("--models", default="", help="NAME[:chat|completion|embedding][=SHARE],… [all that /v1/models names, as chat]")
    add("--rate", type=float, default=20.0, help="requests a second")
    add("--load-shape", default="constant", choices=["constant", "ramp", "poisson"], help="when sends are due")
    add("--rate-from", type=float, default=1.0, help="ramp: requests a second at its start")
    add("--ramp-s", type=float, default=10.0, help="ramp: seconds until the full rate")
    add("--seconds", type=float, default=30.0, help="how long to send")
    add("--good-within-ms", type=float, default=500.0, help="a good answer is complete within this time")
    add("--connect-timeout-s", type=float, default=0.9, help="limit for opening a connection (below 1 s: SYN resend)")
    add("--total-timeout-s", type=float, default=5.0, help="limit for the whole request, from the moment it is sent")
    add("--seed", type=int, default=1, help="seed of the plan")
    add("--auth-env", default="", help="environment variable that holds the bearer token")
    add("--out", default="runs", help="where the run directory of a load started by hand is made")
    add("--managed", action="store_true", help="started by the runner: it says when to start and stop", **hidden)


class OneUserAWorker(LoadTestShape):
    """As many users as there are workers, at once: Locust then gives each worker one."""

    def __init__(self) -> None:
        super().__init__()
        self._users = 0

    def reset_time(self) -> None:
        super().reset_time()
        self._users = 0

    def tick(self) -> tuple[int, float]:
        # Fixed at the start: a worker that dies must not make Locust rearrange the others.
        self._users = self._users or max(int(self.runner.worker_count), 1)
        return self._users, float(self._users)


class OpenLoopUser(User):
    """Sends this worker's slice of the plan. A second user in the same process has nothing to do and ends."""

    @task
    def send_all(self) -> None:
        for sender in _SENDERS[:1]:
            sender.wait()
        raise StopUser

    def on_stop(self) -> None:
        for sender in _SENDERS[:1]:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Locust's parent repeats it; the drain is bounded
            sender.halt()
            sender.wait()
            signal.signal(signal.SIGINT, before)


@events.init.add_listener
def on_init(environment: Any, runner: Any, **_: Any) -> None:
    """Lets the master hear why a worker will not send; under the runner, keeps Locust's tables out of the log."""
    if environment.parsed_options.managed:
        logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)
    if isinstance(runner, MasterRunner):
        runner.register_message(REFUSED_MESSAGE, _on_refused)


@events.test_start.add_listener
def on_test_start(environment: Any, **_: Any) -> None:
    """Master and single process deal out the plan; workers and single process then send."""
    try:
        if not isinstance(environment.runner, WorkerRunner):
            _deal(environment)
        if not isinstance(environment.runner, MasterRunner):
            _send(environment)
    except BlackstartError as error:
        _fail(environment, EXIT_REFUSED, f"{error.message}; {error.hint}")


def _deal(environment: Any) -> None:
    """Makes or opens the run directory and gives each connected worker its slice."""
    options, runner = environment.parsed_options, environment.runner
    if isinstance(runner, MasterRunner):
        clients = runner.clients.ready + runner.clients.running + runner.clients.spawning
        names = sorted((client.id for client in clients), key=runner.get_worker_index)
    else:
        names = [runner.client_id]
    by_hand = None if options.managed else ByHand.open(options, environment.host)
    setattr(environment, _BY_HAND, by_hand)
    run = by_hand.run if by_hand is not None else RunDirectory(Path(options.run))
    setattr(options, PLAN, {"run": str(run.path), "host": boot_id(), "workers": names})
    gevent.spawn(_supervise, environment, ControlFiles(run), by_hand, len(names))


def _send(environment: Any) -> None:
    """Starts this process's sender, if it has a slice."""
    plan, runner = getattr(environment.parsed_options, PLAN), environment.runner
    if plan["host"] != boot_id():
        raise BlackstartError(
            f"this worker is on another host ({boot_id()}) than the master ({plan['host']}): a load on several hosts "
            "is refused, because their monotonic clocks do not compare",
            hint="start all workers on the master's host",
        )
    if runner.client_id not in plan["workers"]:
        log.warning("this worker came after the start: it has no slice and sends nothing")
        return
    sender = _sender(environment, RunDirectory(Path(plan["run"])), plan["workers"])
    _SENDERS.insert(0, sender)
    log.info("%s", go_first())
    gc.collect()
    gc.freeze()  # Locust's modules and the plan: the collector need not look at them during the run
    gevent.spawn(_run, environment, sender)


def _run(environment: Any, sender: Sender) -> None:
    """A failed sender ends its process: a load that cannot record is worth nothing."""
    sender.run()
    if (failure := sender.failure) is not None:
        if not isinstance(failure, BlackstartError):
            log.error("a defect of blackstart", exc_info=failure)
        _fail(environment, sender.exit_code, f"the load stopped: {failure}")


def _sender(environment: Any, run: RunDirectory, workers: list[str]) -> Sender:
    index = workers.index(environment.runner.client_id)
    header, schedule, name = run.read_header(), run.read_schedule(), f"load-{index}"
    if run.ops_file(name).exists():
        raise BlackstartError(f"{run.ops_file(name)} exists: this plan was sent before", hint="prepare a new run")
    seq = slice_of(len(schedule), index, len(workers))
    part = Slice(index, seq.tolist(), schedule.offset_ns[seq].tolist(), schedule.entry[seq].tolist())
    load = header.load
    asks = asks_of(header.target, header.mix, Op(source=LOAD, process=name, kind="", t_intended=0, outcome="unknown"))
    return Sender(
        part,
        Client(asks, load.connect_timeout_s, load.total_timeout_s),
        OpWriter(run.ops_file(name)),
        ControlFiles(run),
        total_timeout_s=load.total_timeout_s,
        on_op=lambda op: _tell_locust(environment, op),
    )


def _tell_locust(environment: Any, op: Op) -> None:
    """Feeds Locust's statistics and page; latency from the intended time, like ours."""
    environment.events.request.fire(
        request_type=op.kind,
        name=op.model,
        response_time=max(op.t_done - op.t_intended, 0) / 1e6,
        response_length=op.tokens,
        exception=RequestFailed(op.error) if op.error else None,
        context={},
    )


def _supervise(environment: Any, files: ControlFiles, by_hand: ByHand | None, workers: int) -> None:
    """Starts and stops a load that nobody manages; ends Locust's test once every worker has drained or died."""
    ended: dict[int, int] = {}
    try:
        while len(ended) < workers:
            seen = files.workers()
            if by_hand is not None and len(seen) == workers:
                by_hand.begin()
            for index, status in seen.items():
                if status.state != "ready" or status.gone:
                    ended[index] = 0 if status.state == "drained" else max(status.code, 1)
            gevent.sleep(POLL_S)
        if by_hand is not None:
            by_hand.end(all_drained=not any(ended.values()))
    except BlackstartError as error:
        _fail(environment, EXIT_REFUSED, f"{error.message}; {error.hint}")
        return
    if environment.process_exit_code is None:
        environment.process_exit_code = max(ended.values())
    _end_test(environment)


@events.test_stopping.add_listener
def on_test_stopping(environment: Any, **_: Any) -> None:
    """Stop was pressed, or Locust is going down: a load started by hand stops for all workers at one instant."""
    by_hand = getattr(environment, _BY_HAND, None)
    if by_hand is not None:
        by_hand.halt()


def _fail(environment: Any, code: int, text: str) -> None:
    """Says why nothing more is sent, tells the master, ends the test."""
    log.error(text)
    environment.process_exit_code, runner = code, environment.runner
    if isinstance(runner, WorkerRunner):
        runner.send_message(REFUSED_MESSAGE, {"code": code, "text": text})
        gevent.spawn(runner.quit)
    else:
        runner.log_exception("blackstart", text, text)
        _end_test(environment)


def _on_refused(environment: Any, msg: Any, **_: Any) -> None:
    """The master ends the test when a worker cannot do its part."""
    _fail(environment, msg.data["code"], f"worker {msg.node_id}: {msg.data['text']}")


def _end_test(environment: Any) -> None:
    """Ends Locust, or with its web page open only the test."""
    gevent.spawn(environment.runner.quit if environment.parsed_options.headless else environment.runner.stop)


def _end_with_parent(first_pid: int, runner_pid: int) -> None:
    """No orphans: sends nothing more once the parent is gone, drains (bounded), ends.

    Spawned as this file is imported, before Locust forks its workers or connects them (which it tries for minutes),
    and inherited by them: their parent is the process that imported it.
    """
    while True:
        parent = runner_pid if os.getpid() == first_pid else first_pid
        if parent and os.getppid() != parent:
            break
        gevent.sleep(10 * POLL_S)
    log.error("the parent process %d is gone: the load ends", parent)
    if _SENDERS:
        _SENDERS[0].halt()
        _SENDERS[0].wait()
    os._exit(1)


if __name__ == "__main__":
    get_parser().print_help()
    raise SystemExit(0)

gevent.spawn(_end_with_parent, os.getpid(), int(os.environ.get(PARENT_PID, "0")))
