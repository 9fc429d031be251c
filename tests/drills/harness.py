"""Runs the command line as a user would: in a process of its own, and looks for what it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

from history.op import FAULT_INJECT
from history.reader import Run

ROOT = Path(__file__).parents[2]
MICRO = Path(__file__).with_name("micro_drill.py")
SEND_LAG = {"send lag", "send lag near edges"}
TRIES = 3
TRIES_LIMIT_S = 300
"""A test's own limit where a drill may be repeated."""
_MARK = "BLACKSTART_TEST_RUN"


@dataclass
class Blackstart:
    """One `blackstart …` process; every process that it starts inherits a mark by which it can be found."""

    mark: str
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, *arguments: str, cwd: Path = ROOT) -> Blackstart:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            [sys.executable, "-m", "blackstart", *arguments],
            cwd=cwd,
            env={**os.environ, _MARK: mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return cls(mark, process)

    def wait_for(self, text: str) -> str:
        """Reads the output up to the line that has ``text``; the test's own time-out bounds it."""
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if text in line:
                return seen
        raise AssertionError(f"it ended without saying {text!r}:\n{seen}")

    def end(self, timeout_s: float = 90) -> tuple[int, str]:
        """(exit code, the rest of the output)."""
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out

    def processes(self) -> list[psutil.Process]:
        """Live processes of this run, the harness among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left_behind(self) -> list[str]:
        """Processes of this run that are still there, once it has ended."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                found.append(" ".join(process.cmdline())[:120])
        return found


def run(*arguments: str, cwd: Path = ROOT, timeout_s: float = 90) -> tuple[int, str, list[str]]:
    """(exit code, output, processes left behind) of one whole `blackstart …`."""
    blackstart = Blackstart.start(*arguments, cwd=cwd)
    code, out = blackstart.end(timeout_s)
    return code, out, blackstart.left_behind()


def host_held_up(run_: Path) -> bool:
    """Does a run count for nothing because this host sent its load late, and for no other check?"""
    file = run_ / "result.json"
    if not file.exists():  # a harness error, which is the harness's
        return False
    result = json.loads(file.read_text())
    missed = {check["name"] for check in result["validity"]["checks"] if check["verdict"] != "pass"}
    return result["verdict"] == "unknown" and bool(missed) and missed <= SEND_LAG


def run_until_measured(*arguments: str, out: Path, timeout_s: float = 90) -> tuple[int, str, list[str], Path]:
    """``run``, and the run's directory, of a drill of which something is to be learnt: where this host was too busy to
    send in time, a run says nothing of anything but the host, says so, and is repeated; ``TRIES`` in all."""
    for number in range(TRIES):
        folder = out / f"try-{number}"
        code, said, left = run("run", *arguments, "--out", str(folder), timeout_s=timeout_s)
        assert folder.exists(), said
        path = only_run(folder)
        if left or not host_held_up(path):
            break
        print(said)
    return code, said, left, path


def only_run(out: Path) -> Path:
    """The one run directory beneath ``out``."""
    (found,) = out.iterdir()
    return found


def first_answer_again_ns(run_: Run, logs: Path, model: str) -> int:
    """When the model's servers, by their own access logs, first answered again after the injection."""
    (injected,) = run_.history.of_kind(FAULT_INJECT)
    answered = [
        entry["t_first_byte"]
        for log in logs.rglob("access-*.jsonl")
        for entry in map(json.loads, log.read_text().splitlines())
        if entry["model"] == model and entry["status"] == 200 and entry["t_first_byte"] > injected.t_done
    ]
    first: int = min(answered)
    return first
