"""The golden run of tests/data/golden: the same records give the same result, JUnit, summary and page."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
from pathlib import Path

from assertions.case import Case
from drills.engine.commands.main import main
from history.clock import NS_PER_S
from history.op import FAULT_INJECT
from history.reader import read_run
from reports import tables
from reports.words import seconds
from tests.reports.golden import GOLDEN

ADVICE = "if this change is meant, run `make golden`, read the difference, and commit it"


def test_analyze_and_report_reproduce_it(tmp_path: Path) -> None:
    """Through the command line, on a copy that holds the records alone."""
    for name in ("header.json", "history.jsonl.gz", "schedule.json.gz", "drill.py"):
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    assert main(["analyze", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path)]) == 0
    for name in ("result.json", "junit.xml", "summary.md"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), f"{name} differs: {ADVICE}"
    page = hashlib.sha256((tmp_path / "report.html").read_bytes()).hexdigest()
    assert (GOLDEN / "report.sha256").read_text().split()[0] == page, f"report.html differs: {ADVICE}"


def test_it_names_no_place_and_no_machine() -> None:
    for path in sorted(GOLDEN.iterdir()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found = re.findall(rb"(?<![\w.])/(?:root|work|tmp|home|usr|var|opt)\b[^\s\"]*", data)
        assert found == [], f"{path.name} names {found[:3]}"


def test_it_is_a_real_run_that_lost_something() -> None:
    text = (GOLDEN / "summary.md").read_text()
    assert "PASS" in text
    lost = re.search(r"lost (\d+) of (\d+)", text)
    assert lost is not None
    assert int(lost[1]) > 0
    assert int(lost[2]) > 500


def test_its_replacements_stand_each_with_what_was_said_of_it() -> None:
    """Only what was placed anew, on clusters that live, in the order in which they were done."""
    run = read_run(GOLDEN)
    table = tables.replacements(Case.of(run))
    assert table.head == ("model", "replica", "node", "created", "scheduled", "started", "weights", "ready")
    victims, homes = {"cobalt"}, {(p.cluster, p.replica) for p in run.header.fleet.placements}
    lost = sorted(p.model for p in run.header.fleet.placements if p.cluster in victims)
    assert sorted(row[0] for row in table.rows) == lost
    assert all(row[2].split("-")[0] not in victims for row in table.rows)
    assert not {row[1] for row in table.rows} & {replica for _, replica in homes}
    zero = min(op.t_intended for op in run.history.of_kind(FAULT_INJECT))
    for _, replica, _, *said in table.rows:
        heard = [op for op in run.history.of_kind(*tables.SAID) if op.replica == replica]
        first = {op.kind: (op.t_done - zero) / NS_PER_S for op in reversed(heard)}
        assert said == [seconds(first[kind]) for kind in tables.SAID]
    ready = [float(row[-1].split()[0]) for row in table.rows]
    assert ready == sorted(ready)
