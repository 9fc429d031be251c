"""``run --ablate``: which runs, resumed where it stopped; ``NAME+REMEDY`` as a drill of its own."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from assertions.ablation import Cell, Variant
from drills.engine.commands import ablate
from drills.engine.commands.options import Asked
from drills.engine.nouns import Destroy, Inject
from drills.engine.safety.loader import find, load
from fleet.june import JUNE_REMEDIES
from history.errors import UsageError

JUNE = Asked("june-2022", "local", 1, None, (), False)


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_the_runs_are_none_each_alone_and_all() -> None:
    found = load(find("june-2022", Path.cwd())).ablation
    assert found is not None
    names = [run.name for run in ablate.wanted_runs(found, leave_one_out=False)]
    assert names == ["none", *(f"only {name}" for name in JUNE_REMEDIES), "all"]
    more = ablate.wanted_runs(found, leave_one_out=True)
    every = next(run for run in more if run.name == "all")
    assert not {"locks", "fallback"} & set(every.remedies), "they prevent or hide what is to be compared"
    without = next(run for run in more if run.name == "without shard")
    assert set(every.remedies) - set(without.remedies) == {"shard"}


def test_a_drill_with_remediations_is_planned_by_its_name() -> None:
    plain, shard = (load(find(name, Path.cwd())) for name in ("june-2022", "june-2022+shard"))
    assert plain.fleet.model("ft-curie").copies == 1
    assert shard.fleet.model("ft-curie").copies == 2
    locked = load(find("june-2022+locks", Path.cwd()))
    faults = [step.fault for step in locked.steps if isinstance(step, Inject)]
    assert faults == [Destroy("cobalt", refused=True)]
    assert locked.fleet.switches.locked == ("cobalt",)
    with pytest.raises(UsageError, match="no remediation 'speed'; there are locks, setup"):
        load(find("june-2022+speed", Path.cwd()))
    with pytest.raises(UsageError, match="no remediations to switch on"):
        load(find("cluster-loss+shard", Path.cwd()))


def test_every_variant_of_the_replay_can_be_planned() -> None:
    found = load(find("june-2022", Path.cwd())).ablation
    assert found is not None
    for run in ablate.wanted_runs(found, leave_one_out=True):
        drill = found.make(frozenset(run.remedies))
        assert drill.problems() == (), run.name
        assert drill.longest_s() <= 165, run.name


def test_finished_runs_are_kept_and_only_the_rest_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    commit = ["now"]
    broken = {"only peers"}

    def run(_: Any, asked: Asked, wanted: Any, folder: Path, *__: Any) -> int:
        ran.append(wanted.name)
        if wanted.name in broken:
            return 130
        made = folder / f"run-{len(ran)}"
        made.mkdir(parents=True)
        (made / "drill.py").write_text(find(asked.drill, Path.cwd()).text)
        (made / "result.json").write_bytes(b"{}")
        return 0

    def variant(name: str, remedies: Any, run: str, _: Any) -> Variant:
        return Variant(name, tuple(remedies), run, "pass", True, {"codex": Cell((1.0, 2.0))})

    monkeypatch.setattr(ablate, "_run", run)
    monkeypatch.setattr(ablate, "decode_result", lambda data: data)
    monkeypatch.setattr("assertions.ablation.variant", variant)
    monkeypatch.setattr(ablate, "_commit", lambda _: commit[0])
    monkeypatch.setattr(ablate, "commit_of", lambda _: ("now", False))
    assert ablate.ablate(console(), JUNE, tmp_path, False) == 130, "Ctrl-C ends all, not one run"
    assert ran == ["none", "only locks", "only setup", "only shard", "only stores", "only peers"]
    broken.clear()
    shown = console()
    assert ablate.ablate(shown, JUNE, tmp_path, False) == 0
    assert ran[6:] == ["only peers", "only light", "only headroom", "only fallback", "all"]
    said = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "6 of 10: only peers" in said
    assert "min left" in said
    folder = tmp_path / "june-2022-ablation-1"
    assert (folder / "ablation.html").read_bytes().count(b"<tr>") == 11
    assert (folder / "ablation.json").is_file()
    for stale in folder.glob("only-light/*/drill.py"):
        stale.write_text("another drill")
    ablate.ablate(console(), JUNE, tmp_path, False)
    assert ran[11:] == ["only light"], "a run of another drill is no run of this one"
    commit[0] = "another"
    ablate.ablate(console(), JUNE, tmp_path, False)
    assert len(ran) == 12 + 2 * 10, "and of another commit neither: each is tried twice"


def test_a_drill_without_remediations_has_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no remediations to compare"):
        ablate.ablate(console(), replace(JUNE, drill="cluster-loss"), tmp_path, False)


def test_every_option_reaches_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    def run_drill(plan: Any, out: Path, view: Any, words: tuple[str, ...], port: int, webhook: str) -> Any:
        told.append((words, port, webhook, plan.environment))
        return SimpleNamespace(exit_code=0)

    monkeypatch.setattr(ablate, "run_drill", run_drill)
    asked = replace(JUNE, confirmed=("cobalt",), expect_fail=True)
    ablate.ablate(console(), asked, tmp_path, False, 8123, "http://hooks.example")
    assert len(told) == 2 * 10
    assert {one[1:] for one in told} == {(8123, "http://hooks.example", "local")}
    first, *_, last = [" ".join(words) for words, *_ in told]
    rest = "--env local --seed 1 --confirm cobalt --expect-fail --gateway-port 8123"
    assert first == f"blackstart run june-2022 {rest}"
    assert last.startswith("blackstart run june-2022+")
    assert last.endswith(rest)


def test_another_fleet_would_replace_what_is_compared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ablate with --fleet 'micro'") as caught:
        ablate.ablate(console(), replace(JUNE, fleet="micro"), tmp_path, False)
    assert "leave out --fleet" in caught.value.hint
