"""The golden run: the records of one real micro-drill, and what analyze and report make of them, byte for byte.

    python tests/reports/golden.py            makes result.json, junit.xml, summary.md and report.sha256 anew
    python tests/reports/golden.py RUN_DIR    takes the records of another run first

Of the host only its system and cores are kept; the journal and the logs, which name places, are left out.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from assertions import analyze, encode_result
from history.reader import read_run
from history.rundir import RunDirectory
from reports import html, junit, summary

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def take(source: Path) -> None:
    """Copies the records of a run, without what says where it ran."""
    old, new = RunDirectory(source), RunDirectory(GOLDEN)
    header = old.read_header()
    host = tuple((name, value.split()[0]) for name, value in header.host if name in ("system", "cores"))
    new.write_header(replace(header, host=host))
    for path in (old.history, old.schedule, old.drill):
        shutil.copyfile(path, GOLDEN / path.name)


def outputs() -> dict[str, bytes]:
    """File name -> what the records make now. The page is 1.4 MB, so only its hash is kept."""
    run, files = read_run(GOLDEN), RunDirectory(GOLDEN)
    result = analyze(run)
    page = html.render(run, result, files.drill.read_text(), hashlib.sha256(files.history.read_bytes()).hexdigest())
    return {
        "result.json": encode_result(result),
        "junit.xml": junit.render(result),
        "summary.md": summary.render(run, result),
        "report.sha256": f"{hashlib.sha256(page).hexdigest()}  report.html\n".encode(),
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    for name, data in outputs().items():
        (GOLDEN / name).write_bytes(data)
