"""A damaged run directory through the whole `blackstart analyze`: never a pass that it was not, never a traceback."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills.engine.commands.main import main
from drills.engine.safety.journal import read_journal
from history.files import merge
from history.op import RUN_END, RUNNER
from history.records import StepFacts
from history.rundir import RunDirectory
from history.writer import OpWriter
from tests.assertions.conftest import Script, make_objective

FILES = ("history.jsonl.gz", "ops", "schedule.json.gz", "header.json")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that fails its one objective by far, once merged and once in parts."""
    script = Script(rate_rps=30.0, baseline_s=5.0, observed_s=20.0, failback_s=5.0).fail(0.0, 18.0, ("solo",))
    script = replace(
        script.event(RUN_END, 26.0, RUNNER),
        objectives=(make_objective("recovered", 1.0),),
        header_changes={"steps": (StepFacts("Restore", "cobalt"),), "says_end": True},
    )
    made = []
    for name in ("merged", "parts"):
        run, directory = script.run(), RunDirectory(tmp_path_factory.mktemp("run") / name)
        directory.path.mkdir()
        directory.write_header(run.header)
        directory.write_schedule(run.schedule)
        for op in script.ops(run.schedule.offset_ns):
            source = "load-0" if op.source == "load" else "runner"
            with OpWriter(directory.ops_file(source)) as writer:
                writer.append(op)
        if name == "merged":
            merge(directory)
        made.append(directory.path)
    return made[0], made[1]


def target(path: Path, name: str) -> Path:
    return path / "ops" / "load-0.jsonl" if name == "ops" else path / name


def analyzed(path: Path, capfd: pytest.CaptureFixture[str]) -> int:
    code = main(["analyze", str(path)])
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "defect" not in captured.err
    if code == 4:
        assert "Next: " in captured.err
    return code


def test_whole_it_fails(failed: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert [analyzed(path, capfd) for path in failed] == [1, 1]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_and_cuts(
    name: str,
    failed: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(failed[name == "ops"], path)
    damaged = target(path, name)
    content = bytearray(damaged.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="at")]
    else:
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=5)
        ):
            content[at] = value
    damaged.write_bytes(content)
    code = analyzed(path, capfd)
    assert code in (0, 1, 2, 4)
    if name in ("history.jsonl.gz", "ops"):  # the header and the schedule *are* the question: no answer to compare with
        assert code != 0
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("kept", [0, 1, 40])
def test_parts_that_are_gone(
    kept: int, failed: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(failed[1], tmp_path / "run")
    for name in ("load-0", "runner"):
        part = tmp_path / "run" / "ops" / f"{name}.jsonl"
        part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:kept]))
    assert analyzed(tmp_path / "run", capfd) == 2
    assert not read_journal(tmp_path / "run" / "journal.jsonl").healed
