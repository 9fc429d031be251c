"""A replay's page: both clocks, the restore's stages, 429 and 499 by class, and the posts of then beside the run's."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from assertions.case import Case
from history.op import RESTORE_STAGE, RUNNER, Op
from history.reader import History, Run
from history.records import StoryPost
from reports import clocks, html, timeline
from reports.clocks import both, stands_for


@pytest.mark.parametrize(
    ("t_s", "scale", "text"),
    [
        (57.2, 300.0, "4 h 46 min"),
        (0.1, 300.0, "30.0 s"),
        (0.65, 300.0, "3 min 15 s"),
        (12.0, 300.0, "1 h 00 min"),
        (-1.0, 300.0, "-5 min 00 s"),
        (11.99999, 300.0, "1 h 00 min"),
    ],
)
def test_a_time_of_the_run_in_the_time_that_it_stands_for(t_s: float, scale: float, text: str) -> None:
    assert stands_for(t_s, scale) == text


def test_a_run_on_its_own_clock_shows_one(sample: ModuleType) -> None:
    made = sample.build("fail", rate_rps=40, seconds=60)
    assert both(3.0, 1.0) == "3.00 s"
    assert both(None, 300.0) == "–"
    assert b"In the time that the run stands for" not in html.render(made.run, made.result, "")


def scaled(sample: ModuleType) -> Any:
    made = sample.build("fail", rate_rps=60, seconds=60, error="http-429")
    start = sample._at(20)
    stage = Op(
        source=RUNNER,
        process="runner",
        kind=RESTORE_STAGE,
        t_intended=start,
        t_done=start + 6_000_000_000,
        outcome="ok",
        detail={"name": "VPN <link> rebuilt", "signals": [{"name": "api", "ok": True, "seen": "HTTP 200"}]},
    )
    header = replace(made.run.header, time_scale=300.0, story=(StoryPost(6.0, "19:02", "We are <investigating>."),))
    history = History(made.run.history.requests, (*made.run.history.events, stage))
    return Run(header, made.run.schedule, history), made.result


def test_the_page_of_a_replay_shows_both_clocks_stages_curves_and_posts(sample: ModuleType) -> None:
    run, result = scaled(sample)
    case = Case.of(run)
    found = clocks.build(case, result, timeline.posts(case, result))
    assert found is not None
    assert "1 h is 12 s" in found.clock
    (stage,) = found.stages.rows
    assert stage == ("VPN <link> rebuilt", "HTTP 200", "1 h 40 min", "30 min 00 s", "20.0 s")
    back = {
        name
        for name, m in result.classes.items()
        if m.recovered_s and m.recovered_s[1] is not None and not m.unaffected
    }
    assert back
    assert {now.split()[1] for *_, now in found.told if now.endswith("is kept again.")} == back
    assert {row[0] for row in found.classes.rows} == set(result.classes)
    shown = {then: at for _, at, then, _ in found.told if then}
    assert shown["19:02: We are <investigating>."] == "1.2 s"
    times = [float(at.removesuffix(" s")) for _, at, _, _ in found.told]
    assert times == sorted(times)
    assert any(now.startswith("Investigating") for _, _, _, now in found.told)
    assert any(word == "429" and "below 2 % for good after" in said for _, word, _, said in found.curves)
    text = html.render(run, result, "").decode()
    assert "In the time that the run stands for" in text
    assert "VPN &lt;link&gt; rebuilt" in text
    assert "<investigating>" not in text
    assert "(12 s = 1 h)" in text, "the charts' axis says what an hour is"
    assert " h</text>" in text, "and so does the strips' axis"
