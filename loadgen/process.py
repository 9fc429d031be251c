"""``LoadProcess``: the load as the runner sees it: start, begin, stop, wait until drained. Never imports locust.

The load runs as `python -m locust -f loadgen/locustfile.py --headless` in a process of its own (or one and its
workers), which ends by itself when the runner dies. ``LOAD_START``, ``LOAD_STOP`` and ``LOAD_DRAINED`` are the
runner's to record: ``begin`` and ``stop`` return the instants.
"""

from __future__ import annotations

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
from loadgen.control import EXIT_RECORDING, PARENT_PID, Control, ControlFiles, WorkerStatus

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
AHEAD_S = 0.3
"""The least time between ``begin`` and the plan's offset 0: every worker has read the start by then."""

STOP_AHEAD_S = 0.1
"""The least time between ``stop`` and the stop: the file is written by then, and workers look before they send."""

_POLL_S = 0.02
_TAIL_LINES = 15


class LoadProcess:
    """One load: its process group from start to end. Not thread-safe except ``poll`` and ``kill``."""

    def __init__(self, run: RunDirectory, processes: int = 1, *, sleep: Callable[[float], None] = time.sleep) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}, it must be at least 1")
        self._run = run
        self._processes = processes
        self._sleep = sleep
        self._files = ControlFiles(run)
        self._control = Control()
        self._last_words: list[WorkerStatus] | None = None
        self._child: subprocess.Popen[bytes] | None = None

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
        command += ["--loglevel", "INFO", "--run", str(self._run.path.resolve())]
        command += ["--managed"]
        if self._processes > 1:
            port = str(_free_port())
            command += ["--processes", str(self._processes), "--master-bind-host", "127.0.0.1"]
            command += ["--master-bind-port", port, "--master-port", port]
        self._files.clear()
        self._last_words = None
        self._run.logs.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
        environment[PARENT_PID] = str(os.getpid())
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=LOCUSTFILE.parent.parent,
                env=environment,
                start_new_session=True,  # Ctrl-C is the runner's: the load drains before it ends
            )

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until every worker has read the plan; ``BlackstartError`` with the log's end when that fails."""
        deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
        while len(self._workers("ready")) < self._processes:
            if self.poll() is not None:
                raise self.failure() or BlackstartError(
                    "the load process ended before it was ready", hint=f"read {self._log}"
                )
            if now_ns() > deadline_ns:
                raise BlackstartError(
                    f"the load process was not ready after {timeout_s:g} s: {self._tail()}", hint=f"read {self._log}"
                )
            self._sleep(_POLL_S)

    def begin(self, start_ns: int | None = None) -> int:
        """Starts the plan; returns the instant of its offset 0: ``start_ns``, or the earliest one when that is past."""
        start_ns = max(start_ns or 0, now_ns() + int(AHEAD_S * NS_PER_S))
        self._control = Control(start_ns=start_ns)
        self._files.write(self._control)
        return start_ns

    def stop(self, stop_ns: int | None = None) -> int:
        """Ends the plan; returns the instant at or after which no send is due: ``stop_ns``, or the earliest possible.

        A second call may only bring the stop forward. Requests in flight are drained for one total time-out.
        """
        stop_ns = max(stop_ns or 0, now_ns() + int(STOP_AHEAD_S * NS_PER_S))
        if self._control.stop_ns is not None:
            stop_ns = min(stop_ns, self._control.stop_ns)
        self._control = Control(self._control.start_ns, stop_ns)
        self._files.write(self._control)
        return stop_ns

    def wait_drained(self, timeout_s: float) -> str | None:
        """Waits for the end of the load. None: every worker drained and recorded all that it sent; else what is wrong.

        What is still alive after ``timeout_s`` is killed. ``failure`` has the same as an error with a hint.
        """
        deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
        while self.poll() is None and now_ns() < deadline_ns:
            self._sleep(_POLL_S)
        in_time = self.poll() is not None
        self.kill()
        if not in_time:
            return f"the load process had not drained after {timeout_s:g} s: {self._tail()}"
        failure = self.failure()
        return failure.message if failure is not None else None

    def poll(self) -> str | None:
        """None while the process runs; then how it ended, with the last lines of its log."""
        code = self._exit_code()
        if code is None:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code == EXIT_RECORDING:
            how += " (it could not write its records)"
        return f"the load process {how}: {self._tail()}"

    def failure(self) -> BlackstartError | None:
        """The error to show for a load that ended badly; None while it runs or when it ended well."""
        text, code = self.poll(), self._exit_code()
        if text is None:
            return None
        if code == EXIT_RECORDING:
            return RecordingError(text, hint="free space or choose another place with --out DIR")
        drained = len(self._workers("drained"))
        if code == 0 and drained == self._processes:
            return None
        if drained < self._processes:
            text = f"{self._processes - drained} of {self._processes} load workers did not drain: {text}"
        return BlackstartError(text, hint=f"read {self._log}")

    def kill(self) -> None:
        """Ends the process and its workers at once; safe to call at any time and twice. Their records stay."""
        if self._child is None or self._last_words is not None:
            return
        if self._group_alive():
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._last_words = list(self._files.workers().values())
        self._files.clear()

    @property
    def _log(self) -> Path:
        log: Path = self._run.logs / "load.log"
        return log

    def _workers(self, state: str) -> list[WorkerStatus]:
        said = self._files.workers().values() if self._last_words is None else self._last_words
        return [status for status in said if status.state == state]

    def _exit_code(self) -> int | None:
        return self._child.poll() if self._child is not None else None

    def _group_alive(self) -> bool:
        """Any member of the process group, whose id is the first process's, still exists."""
        try:
            os.killpg(self._child.pid if self._child else 0, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return self._child is not None

    def _tail(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:]) or "nothing in its log"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
