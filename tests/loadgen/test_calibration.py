"""The calibration of *service back*: outages whose true end is known, judged by the whole pipeline.

For every case the true end must lie inside the interval, and the interval must be no wider than ``good_within_ms``
plus two gaps between sends of that model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assertions.analyze import analyze
from history.clock import NS_PER_S
from history.op import FAULT_INJECT
from history.reader import read_run

if TYPE_CHECKING:
    from tests.loadgen import scripted
else:
    import scripted


def judged_wrongly(cases: tuple[scripted.Case, ...], folder: Path, setting: scripted.Setting) -> list[str]:
    """Runs the cases; returns a line for each whose interval misses the truth or is too wide."""
    directory, truths = scripted.run_cases(cases, folder, setting)
    run = read_run(directory.path)
    assert run.duplicates == 0
    assert not run.load.error.where("no-record").any()
    result = analyze(run)
    injected_ns = run.history.of_kind(FAULT_INJECT)[0].t_intended
    widest_s = setting.good_within_ms / 1000 + 2 / setting.rate_rps
    wrong = []
    for case in cases:
        back, truth = result.models[case.name].service_back_s, truths[case.name]
        before_s, after_s = ((t - injected_ns) / NS_PER_S for t in (truth.before_ns, truth.after_ns))
        said = f"{case.name}: ended in [{before_s:.4f}, {after_s:.4f}], service back {back}"
        if back is None or back[1] is None or not (back[0] <= after_s and before_s <= back[1]):
            wrong.append(f"misses the truth: {said}")
        elif back[1] - back[0] > widest_s:
            wrong.append(f"wider than {widest_s:.3f} s: {said}")
    return wrong


def test_the_true_end_lies_inside_service_back_in_every_mode(tmp_path: Path) -> None:
    cases = scripted.draw_cases(seed=41, count=20)
    assert {case.mode for case in cases} == set(scripted.modes())
    assert judged_wrongly(cases, tmp_path / "run", scripted.Setting(seed=41)) == []


def test_one_case_alone_is_a_whole_run(tmp_path: Path) -> None:
    case = scripted.Case("alone", "stall", 1.2)
    setting = scripted.Setting(after_s=3.5, baseline_s=1.0)
    directory, truth = scripted.run_case(case, tmp_path / "run", setting)
    run = read_run(directory.path)
    assert {run.load.model[i] for i in range(len(run.load))} == {"alone"}
    injected_ns = run.history.of_kind(FAULT_INJECT)[0].t_intended
    assert truth.before_ns - injected_ns == pytest.approx(1.2 * NS_PER_S, abs=0.1 * NS_PER_S)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(6))
def test_two_hundred_cases(seed: int, tmp_path: Path) -> None:
    cases = scripted.draw_cases(seed=seed, count=34)
    assert judged_wrongly(cases, tmp_path / "run", scripted.Setting(seed=seed)) == []
