"""Steps, keys, the shelf and the runner of the offline builder, with steps that write small files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from fleet.environments.kind.offline.recipe import KEPT, Build, Shelf, Step, Workshop, missing
from history.errors import FleetError


def leave(shop: Workshop) -> None:
    (shop.out / "result").write_text(" ".join(sorted(shop.got)))


def step(name: str, *needs: Step, inputs: Mapping[str, str] | None = None) -> Step:
    return Step(name, f"make {name}", leave, inputs or {"version": "1"}, needs)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "cache")


def test_a_key_changes_with_every_input_and_with_every_need() -> None:
    low = step("low")
    top = step("top", low)
    others = [
        step("top"),
        step("top", step("low", inputs={"version": "2"})),
        step("top", low, inputs={"version": "2"}),
        step("top", low, inputs={"release": "1"}),
        step("other", low),
    ]
    assert top.key == step("top", step("low")).key
    assert len({top.key, *(other.key for other in others)}) == len(others) + 1


def test_a_build_makes_needs_first_and_a_second_build_makes_nothing(shelf: Shelf) -> None:
    said: list[str] = []
    low, side = step("low"), step("side")
    top = step("top", low, side)
    Build(shelf, said.append).run([top])
    assert (shelf.place(top) / "result").read_text() == "low side"
    assert [line for line in said if "✓ top" in line]
    said.clear()
    Build(shelf, said.append).run([top])
    assert said == []
    assert missing([top], shelf) == []


def test_only_what_depends_on_a_change_is_made_anew(shelf: Shelf) -> None:
    low, side = step("low"), step("side")
    Build(shelf, lambda _: None).run([step("top", low, side)])
    changed = step("side", inputs={"version": "2"})
    assert [todo.name for todo in missing([step("top", low, changed)], shelf)] == ["side", "top"]


def test_a_failed_step_leaves_no_result_and_what_was_done_stays(shelf: Shelf) -> None:
    def fail(shop: Workshop) -> None:
        (shop.out / "half").write_text("half")
        shop.run(["sh", "-c", "echo reason >&2; exit 7"])

    low = step("low")
    top = Step("top", "fail", fail, {}, (low,))
    with pytest.raises(FleetError, match=r"sh failed with code 7: reason") as caught:
        Build(shelf, lambda _: None).run([top])
    assert "top.log" in caught.value.hint
    assert shelf.has(low)
    assert not shelf.has(top)
    mended = Step("top", "work", leave, {}, (low,))
    Build(shelf, lambda _: None).run([mended])
    assert not (shelf.place(mended) / "half").exists()


def test_a_full_disk_is_an_error_with_a_next_step(shelf: Shelf) -> None:
    def fill(shop: Workshop) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FleetError, match="No space left") as caught:
        Build(shelf, lambda _: None).run([Step("big", "fill", fill, {})])
    assert "GiB" in caught.value.hint


def test_a_failure_ends_the_programs_of_the_other_steps(shelf: Shelf) -> None:
    started = threading.Event()
    pids: list[int] = []

    def long(shop: Workshop) -> None:
        watch = threading.Thread(target=wait_for_program, args=(shop, started, pids))
        watch.start()
        shop.run(["sleep", "60"])

    def fail(shop: Workshop) -> None:
        assert started.wait(10)
        raise FleetError("broken", hint="mend it")

    steps = [Step("long", "wait", long, {}), Step("fail", "fail", fail, {})]
    with pytest.raises(FleetError, match="broken"):
        Build(shelf, lambda _: None).run(steps)
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def wait_for_program(shop: Workshop, started: threading.Event, pids: list[int]) -> None:
    while not shop.running:
        pass
    pids.extend(shop.running)
    started.set()


def test_the_shelf_keeps_a_few_results_of_a_step(shelf: Shelf) -> None:
    made = [step("top", inputs={"version": str(version)}) for version in range(KEPT + 2)]
    for moment, one in enumerate(made):
        Build(shelf, lambda _: None).run([one])
        os.utime(shelf.place(one), (moment, moment))
    shelf.prune(made[-1])
    assert [shelf.has(one) for one in made] == [False] * 2 + [True] * KEPT


def test_pruning_leaves_steps_whose_name_begins_alike(shelf: Shelf) -> None:
    base = step("serving-base")
    Build(shelf, lambda _: None).run([base, *[step("serving", inputs={"v": str(v)}) for v in range(1)]])
    for version in range(KEPT + 2):
        Build(shelf, lambda _: None).run([step("serving", inputs={"v": str(version)})])
    assert shelf.has(base)


def test_what_a_program_says_is_kept_apart_from_the_log(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, tmp_path / "log", tmp_path, {})
    assert shop.ask(["sh", "-c", "echo answer; echo noise >&2"]) == "answer\n"
    assert "noise" in shop.log.read_text()
    assert "answer" not in shop.log.read_text().splitlines()
    shop.run(["echo", "progress"])
    assert "progress" in shop.log.read_text().splitlines()


def test_a_second_build_waits_for_the_first(shelf: Shelf) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fleet.environments.kind.offline.recipe import Shelf\n"
        f"with Shelf(Path({str(shelf.root)!r})).locked(lambda line: print(line, flush=True)): print('mine', flush=True)"
    )
    with shelf.locked(lambda _: None):
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
        )
        assert other.stdout is not None
        first = other.stdout.readline()
    rest = other.communicate(timeout=30)[0]
    assert "another build uses" in first
    assert rest.strip() == "mine"


def test_a_build_clears_away_what_an_interrupted_one_left(shelf: Shelf) -> None:
    (shelf.root / "work/node-0123").mkdir(parents=True)
    with shelf.locked(lambda _: None):
        assert list((shelf.root / "work").iterdir()) == []
