"""The end of a run: merge the history, judge it, write the pages. Also all that ``analyze`` and ``report`` do."""

from __future__ import annotations

from pathlib import Path

import assertions
import reports
from assertions.result import Result
from history.reader import Run, merge, read_run
from history.rundir import RunDirectory, write_atomic


def merge_history(directory: RunDirectory) -> None:
    """One file of all ops in time order; the parts are removed only when it is on disk."""
    merge(directory)


def judge(path: Path) -> tuple[Run, Result]:
    """Reads a run directory, judges it, and writes ``result.json``."""
    run = read_run(path)
    result = assertions.analyze(run)
    write_atomic(RunDirectory(path).result, assertions.encode_result(result))
    return run, result


def write_reports(path: Path, run: Run, result: Result) -> tuple[Path, ...]:
    """Writes report.html, junit.xml and summary.md of a judged run."""
    return reports.write_all(run, result, RunDirectory(path))
