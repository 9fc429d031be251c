"""``Child``: a process of the load as the runner sees it: its log, its group, and how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

PARENT_PID = "BLACKSTART_PARENT_PID"
"""Environment variable: a child ends when this process is no longer its parent."""

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

    def start(self, *command: str) -> None:
        """Starts the command in a process group of its own; returns at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[1],
                env={**environment, PARENT_PID: str(os.getpid())},
                start_new_session=True,  # Ctrl-C is the runner's: the load drains before it ends
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
