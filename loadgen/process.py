"""``LoadProcess`` and ``ProberProcess``: the load and the probers as the runner sees them. Never imports locust.

The load runs as `python -m locust -f loadgen/locustfile.py --headless` in a process of its own (or one and its
workers), which ends by itself when the runner dies. ``LOAD_START``, ``LOAD_STOP`` and ``LOAD_DRAINED`` are the
runner's to record: ``begin`` and ``stop`` return the instants.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from history.clock import NS_PER_S, now_ns
from history.errors import BlackstartError, RecordingError
from history.rundir import RunDirectory
from loadgen.control import EXIT_RECORDING, ControlFiles, WorkerStatus

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
PARENT_PID = "BLACKSTART_PARENT_PID"
"""Environment variable: a child ends when this process is no longer its parent."""

_POLL_S = 0.02
_TAIL_LINES = 15


class Child:
    """One process, and those that it starts, from start to end. ``name`` stands at the head of what is said of it."""

    def __init__(self, name: str, log: Path) -> None:
        self._name, self.log = name, log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, None before ``start``."""
        return self._process.pid if self._process is not None else None

    @property
    def code(self) -> int | None:
        """How it ended; None before that."""
        return self._process.poll() if self._process is not None else None

    def start(self, *command: str, **environ: str) -> None:
        """Starts the command, with more in its environment, in a process group of its own; returns at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[1],  # a user's own `loadgen` or `drills` must not be found first
                env={**environment, **environ, PARENT_PID: str(os.getpid())},
                start_new_session=True,  # Ctrl-C, and what kills the runner's group, is the runner's: the load drains
            )

    def ended(self) -> str | None:
        """None while it runs; then how it ended, with the last lines of its log."""
        code = self.code
        if code is None:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{self._name} {how}: {self.tail()}"

    def terminate(self, timeout_s: float) -> None:
        """Asks it to end, and kills it after ``timeout_s``. Safe to call twice."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            self.kill()

    def kill(self) -> None:
        """Ends it and all that it started, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:]) or "nothing in its log"


class LoadProcess:
    """One load: its process group from start to end. Not thread-safe except ``poll`` and ``kill``."""

    def __init__(self, run: RunDirectory, processes: int = 1, *, sleep: Callable[[float], None] = time.sleep) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}, it must be at least 1")
        self._run = run
        self._processes = processes
        self._sleep = sleep
        self._files = ControlFiles(run)
        self._child = Child("the load process", run.logs / "load.log")
        self._last_words: list[WorkerStatus] | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the workers that have reported, in order of their index."""
        return tuple(status.pid for status in self._files.workers().values())

    def start(self) -> None:
        """Starts the process; returns at once. ``BlackstartError`` without locust, before anything is started."""
        if importlib.util.find_spec("locust") is None:
            raise BlackstartError(
                f"locust is not installed for {sys.executable}: the load cannot be sent",
                hint="install it: `pip install locust`, or run `make drill`, which sets everything up",
            )
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--loglevel", "INFO", "--run", str(self._run.path.resolve()), "--managed"]
        if self._processes > 1:
            port = str(_free_port())
            command += ["--processes", str(self._processes), "--master-bind-host", "127.0.0.1"]
            command += ["--master-bind-port", port, "--master-port", port]
        self._files.clear()
        self._last_words = None
        self._child.start(*command)

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until every worker has read the plan; ``BlackstartError`` with the log's end when that fails."""
        deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
        while len(self._workers("ready")) < self._processes:
            if self.poll() is not None:
                raise self.failure() or BlackstartError(
                    "the load process ended before it was ready", hint=f"read {self._child.log}"
                )
            if now_ns() > deadline_ns:
                raise BlackstartError(
                    f"the load process was not ready after {timeout_s:g} s: {self._child.tail()}",
                    hint=f"read {self._child.log}",
                )
            self._sleep(_POLL_S)

    def begin(self, start_ns: int = 0) -> int:
        """Starts the plan; returns the instant of its offset 0: ``start_ns``, or the earliest one when that is past."""
        return self._files.begin(start_ns)

    def stop(self, stop_ns: int = 0) -> int:
        """Ends the plan; returns the instant at or after which no send is due: ``stop_ns``, or the earliest possible.

        A second call may only bring the stop forward. Requests in flight are drained for one total time-out.
        """
        return self._files.stop(stop_ns)

    def wait_drained(self, timeout_s: float) -> str | None:
        """Waits for the end of the load. None: every worker drained and recorded all that it sent; else what is wrong.

        What is still alive after ``timeout_s`` is killed. ``failure`` has the same as an error with a hint.
        """
        deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
        while not (in_time := self._child.code is not None) and now_ns() < deadline_ns:
            self._sleep(_POLL_S)
        self.kill()
        if not in_time:
            return f"the load process had not drained after {timeout_s:g} s: {self._child.tail()}"
        failure = self.failure()
        return failure.message if failure is not None else None

    def poll(self) -> str | None:
        """None while the process runs; then how it ended, with the last lines of its log."""
        text = self._child.ended()
        return f"it could not write its records: {text}" if text and self._child.code == EXIT_RECORDING else text

    def failure(self) -> BlackstartError | None:
        """The error to show for a load that ended badly; None while it runs or when it ended well."""
        text, code = self.poll(), self._child.code
        if text is None:
            return None
        if code == EXIT_RECORDING:
            return RecordingError(text, hint="free space or choose another place with --out DIR")
        drained = len(self._workers("drained"))
        if code == 0 and drained == self._processes:
            return None
        if drained < self._processes:
            text = f"{self._processes - drained} of {self._processes} load workers did not drain: {text}"
        return BlackstartError(text, hint=f"read {self._child.log}")

    def kill(self) -> None:
        """Ends the process and its workers at once; safe to call at any time and twice. Their records stay."""
        if self._child.pid is not None and self._last_words is None:
            self._child.kill()
            self._last_words = list(self._files.workers().values())
            self._files.clear()

    def _workers(self, state: str) -> list[WorkerStatus]:
        said = self._files.workers().values() if self._last_words is None else self._last_words
        return [status for status in said if status.state == state]


class ProberProcess:
    """The probers' process as the runner sees it."""

    def __init__(self, run: RunDirectory) -> None:
        self._child = Child("the probers", run.logs / "probers.log")
        self._command = (sys.executable, "-m", "loadgen.probers", str(run.path.resolve()))

    @property
    def pid(self) -> int | None:
        """The process id, None before ``start``."""
        return self._child.pid

    def start(self) -> None:
        """Starts probing; returns at once. The run's header must have been written."""
        self._child.start(*self._command)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the probers and waits for their last records; kills them after ``timeout_s``. Safe to call twice."""
        self._child.terminate(timeout_s)

    def poll(self) -> str | None:
        """None while the probers run; then how they ended, with the end of their log."""
        return self._child.ended()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
