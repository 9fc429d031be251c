"""The parts of the page: words, bins, thinning, strips, Prometheus series, findings, timeline."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from assertions import analyze, telemetry
from assertions.case import Case
from assertions.result import ModelRecovery, WindowSpan
from history.op import FAULT_HEAL, FAULT_HEALED, INTERRUPTED, Op
from history.reader import History, Run, Text
from reports import (
    chartset,
    facts,
    findings,
    html,
    junit,
    metrics,
    series,
    strips,
    summary,
    tables,
    timeline,
    words,
)


def recovery(**more: object) -> ModelRecovery:
    base = ModelRecovery(
        0.9, 1.1, 1.3, 4.0, 4.3, 0.3, (5.0, 5.2), (5.0, 5.3), 8.0, 9.0, False, hold_certified_s=8.5, sent=200, bad=20
    )
    return replace(base, **more)  # type: ignore[arg-type]


UNHIT: dict[str, object] = {
    "unaffected": True, "bad": 0, "service_back_s": None, "recovered_s": None, "hold_certified_s": None,
    "detected_s": None, "decided_s": None, "scheduled_s": None, "weights_s": None, "ready_s": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00 s"), (9.994, "9.99 s"), (9.996, "10.0 s"), (99.96, "100 s"), (620, "10 min 20 s"),
     (-20.0, "-20.0 s"), (43200, "12 h 00 min")],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("bounds", "text"),
    [(None, "–"), ((60.0, None), "> 60.0 s"), ((5.9, 6.21), "5.90–6.21 s"), ((9.9, 10.2), "9.9–10.2 s"),
     ((2.0, 2.0), "2.00 s"), ((590.0, 640.0), "590 s – 10 min 40 s")],
)  # fmt: skip
def test_interval(bounds: tuple[float, float | None] | None, text: str) -> None:
    assert words.interval(bounds) == text


def test_shares_never_round_to_nothing_or_to_all() -> None:
    assert words.percent(1, 100_000) == "< 0.1 %"
    assert words.percent(99_999, 100_000) == "> 99.9 %"
    assert words.percent(0, 10) == "0 %"
    assert words.percent(10, 10) == "100 %"
    assert words.percent(1, 0) == "–"


def test_one_line_removes_what_can_break_a_line() -> None:
    assert words.one_line("a\r\n\tb\x00c\u2028d\u202ee") == "a b c d e"
    assert words.one_line("x" * 300, 10) == "x" * 9 + "…"


def test_quantiles_are_nearest_rank() -> None:
    rng = np.random.default_rng(5)
    index, values = rng.integers(0, 7, 500), rng.random(500)
    index[index == 3] = 4  # an empty bin
    found = series.quantiles(index.astype(np.intp), values, 7)
    for percentile, got in zip((50, 95, 99), found, strict=True):
        for i in range(7):
            mine = np.sort(values[index == i])
            if not len(mine):
                assert np.isnan(got[i])
                continue
            assert got[i] == mine[-(-percentile * len(mine) // 100) - 1]


def test_bins_hold_every_send_and_split_at_the_injection(sample: ModuleType) -> None:
    run = sample.build().run
    load = Case.of(run).load
    bins = series.bin_load(load)
    assert len(bins) <= series.MAX_BINS
    assert 0.0 in bins.edges_s
    assert bins.offered.sum() == len(load)
    assert np.array_equal(bins.good + bins.bad + bins.unknown, bins.offered)
    assert bins.bad[bins.left_s < 0].sum() == 0


def test_an_ok_answer_after_the_limit_is_bad(sample: ModuleType) -> None:
    run = sample.build().run
    slow = run.load.t_intended + 501_000_000
    object.__setattr__(run, "load", replace(run.load, t_done=slow))
    load = Case.of(run).load
    assert not load.good.any()
    assert load.bad[load.ok].all()


def test_thinning_keeps_the_edges_whole_and_the_slowest(sample: ModuleType) -> None:
    run = sample.build(rate_rps=300).run
    load = Case.of(run).load
    rows, thinning = series.thin(load, (0.0, 40.0))
    assert thinning.edges_in_full
    assert thinning.total == len(load)
    ended = np.isfinite(load.latency_ms)
    near = np.flatnonzero(ended & ((np.abs(load.x_s) <= 2) | (np.abs(load.x_s - 40) <= 2)))
    assert set(near) <= set(rows)
    assert len(rows) <= series.MAX_DOTS_AT_EDGES + series.MAX_DOTS_ELSEWHERE
    assert np.nanargmax(load.latency_ms) in rows
    assert len(np.unique(rows)) == len(rows)


def _boxes(markup: str) -> list[tuple[float, float, float, float]]:
    boxes = []
    for text in ET.fromstring(markup).iter("text"):
        if not text.attrib.get("class", "").startswith("label"):
            continue
        x, y, width = float(text.attrib["x"]), float(text.attrib["y"]), len(text.text or "") * 6.6
        boxes.append((x, x + width, y - 11, y + 3))
    return boxes


@pytest.mark.parametrize("end", [3.0, 5.3, 30.0, 300.0])
def test_labels_of_a_strip_never_overlap_and_stay_inside(end: float) -> None:
    one = recovery(
        recovered_s=(end - 1, end), service_back_s=(end - 2, end - 1.5), warm_s=end + 0.1, hold_certified_s=end
    )
    axis = strips.axis_for([one], 10.0, 60.0, 40.0)
    drawn = strips.strip("m", one, axis)
    for markup, width in ((drawn.wide, strips.WIDE_PX), (drawn.narrow, strips.NARROW_PX)):
        boxes = _boxes(markup)
        assert len(boxes) >= 3
        for i, a in enumerate(boxes):
            assert a[0] >= 0
            assert a[1] <= width + 1
            for b in boxes[i + 1 :]:
                assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]


def test_a_strip_says_what_it_shows() -> None:
    axis = strips.Axis(10.0)
    assert "unaffected: no bad answer among 200 sends" in strips.strip("m", recovery(**UNHIT), axis).wide
    assert "2 bad of 200, no more than chance at 90 %" in strips.strip("m", recovery(**UNHIT | {"bad": 2}), axis).wide
    spared = strips.strip("m", recovery(**UNHIT | {"victims": 1, "detected_s": 0.9, "ready_s": 4.0}), axis).wide
    assert "stage" in spared  # its lost replica was replaced, although nobody noticed
    assert "outage" not in spared
    never = recovery(recovered_s=(40.0, None), ready_s=None, weights_s=None)
    drawn = strips.strip("m", never, strips.axis_for([never], None, 60.0, None)).wide
    assert "✗ not recovered by 40.0 s" in drawn
    assert "✗ never ready" in drawn
    silent = strips.strip("m", recovery(**UNHIT | {"sent": 0, "unaffected": False}), axis).wide
    assert "nothing is known" in silent
    assert "&lt;b&gt;" in strips.strip("<b>", recovery(), axis).wide


def test_a_strip_draws_nothing_that_was_not_observed() -> None:
    never = recovery(recovered_s=(40.0, None), ready_s=None, weights_s=None)
    axis = strips.axis_for([never], 100.0, 60.0, 60.0)
    start, failed, seen = (round(axis.x(t, strips.WIDE_PX)) for t in (0.0, 40.0, 60.0))

    def lines(drawn: str) -> list[tuple[int, int, str]]:
        found = re.findall(r'<line x1="([^"]+)" x2="([^"]+)" y1="33" y2="33" class="(\w+)"', drawn)
        return [(round(float(x1)), round(float(x2)), name) for x1, x2, name in found]

    missed = strips.strip("m", never, axis).wide
    assert lines(missed) == [(start, seen, "outage")]
    cut_off = strips.strip("m", never, axis, is_open=True).wide
    assert lines(cut_off) == [(start, failed, "outage"), (failed, seen, "unsure")]
    assert "? last failure 40.0 s, no hold proven" in cut_off
    assert "? not seen ready" in cut_off
    assert "✗" not in cut_off
    assert [name for name, _, _ in axis.names(strips.WIDE_PX)] == ["restore 60 s", "limit 100 s"]


def test_the_axis_holds_the_limit_and_shows_late_marks_as_arrows() -> None:
    one = recovery(full_capacity_s=500.0)
    axis = strips.axis_for([one], 10.0, 60.0, 40.0)
    assert 10.0 < axis.end_s < 40.0
    assert "full capacity 500 s →" in strips.strip("m", one, axis).wide


def test_worst_first() -> None:
    never, late = recovery(recovered_s=(40.0, None)), recovery(recovered_s=(7.0, 8.0))
    models = {
        "fine": recovery(unaffected=True, recovered_s=None), "early": recovery(), "never": never, "late": late,
        "relapsed": recovery(relapsed=True),
    }  # fmt: skip
    assert [name for name, _ in facts.worst_first(models)] == ["never", "relapsed", "late", "early", "fine"]


def test_what_is_not_known_is_not_told_as_missed(sample: ModuleType) -> None:
    result = sample.build("fail").result
    fleet = replace(result.fleet, recovered_s=(40.0, None), unaffected=False)
    found = facts.objective_of(result, "recovered")
    assert found is not None
    promised = replace(found, verdict="unknown", limit=60.0)
    cut_off = replace(result, fleet=fleet, objectives=(promised,))
    assert facts.recovered_of(cut_off) == "recovery not proven, last failure at 40.0 s, limit 60 s"
    missed = replace(cut_off, objectives=(replace(promised, verdict="fail", limit=10.0),))
    assert facts.recovered_of(missed) == "not recovered after 40.0 s, limit 10 s"
    no_room = replace(cut_off, fleet=replace(fleet, unplaceable="needs 4 GPUs"))
    assert facts.recovered_of(no_room) == "not recovered after 40.0 s, limit 60 s"


def test_without_a_fleet_limit_the_worst_scope_speaks(sample: ModuleType) -> None:
    for outcome, said in (("pass", "model:ft-davinci-zeta recovered last, in 7.27 s of 10 s"),
                          ("fail", "model:curie not recovered after 40.0 s, limit 10 s")):  # fmt: skip
        result = sample.build(outcome).result
        objectives = tuple(o for o in result.objectives if o.scope != "fleet")
        assert facts.recovered_of(replace(result, objectives=objectives)) == said


def as_drawn(*samples: tuple[int, float], **labels: str) -> metrics.Series:
    t_ns = tuple(t * 10**9 for t, _ in samples)
    return metrics.series_of(telemetry.Series(labels, t_ns, tuple(v for _, v in samples)), 0, first_ns=0)


def test_counters_are_drawn_as_they_are_judged() -> None:
    grid = np.arange(0.0, 10.0)
    restarted = as_drawn((0, 100), (1, 110), (2, 120), (7, 5), (8, 9))
    assert metrics.increase(restarted, grid).tolist() == [0, 10, 20, 20, 20, 20, 20, 25, 29, 29]
    assert metrics.increase(as_drawn((7, 4), (8, 6)), grid).tolist() == [0, 0, 0, 0, 0, 0, 0, 4, 6, 6]
    found_late = as_drawn((4, 4), (8, 6))  # scraped later than others: was there before, no growth (telemetry's rule)
    assert metrics.increase(found_late, grid).tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 2, 2]


def test_a_gauge_ends_with_its_cluster() -> None:
    values = metrics.level(as_drawn((0, 8), (1, 8), (2, 8), cluster="cobalt"), np.arange(0.0, 8.0))
    assert values[:5].tolist() == [8, 8, 8, 8, 8]
    assert np.isnan(values[5:]).all()


def test_findings_are_computed(sample: ModuleType) -> None:
    made = sample.build()
    case = Case.of(made.run)
    load, bins = case.load, series.bin_load(case.load)
    told = findings.outcomes(load, bins)
    assert told.startswith(f"{made.result.totals.lost} bad answers while the fault lasted")
    served = series.by_cluster(case, bins)
    assert served.names == ("amber", "cobalt", "jade", "nobody")
    assert sum(int(c.sum()) for c in served.counts) == len(load)
    assert "cobalt answered" in findings.shares(bins, served, ["cobalt"])
    assert "nothing from 0.00 s to 43.0 s" in findings.shares(bins, served, ["cobalt"])
    found = metrics.read(case)
    assert findings.weights(found) == "Weights loaded since the injection: 1.1 GB from store and 200 MB from peer."
    assert "20.8 % of 48 weight requests since it" in findings.cache(found)
    said = "GPUs allocated by the survivors: 19 before the injection, 27 at most after it, 27 at the end."
    assert findings.gpus(found, ["cobalt"]) == said


def test_one_page_has_one_number_of_lost_requests(sample: ModuleType) -> None:
    """The chart's finding, the ten-second line and *lost* count the same ops, casualties in flight among them."""
    made = sample.build()
    columns = made.run.history.requests
    zero = Case.of(made.run).edges.zero
    struck = (columns.t_intended < zero) & (columns.t_intended > zero - 100_000_000)
    done = np.where(struck, zero + 5_000_000, columns.t_done)
    fail = np.where(struck, columns.outcome.code("fail"), columns.outcome.codes)
    outcome = Text(fail.astype(np.int32), columns.outcome.words)
    requests = replace(columns, t_done=done, outcome=outcome)
    run = Run(made.run.header, made.run.schedule, History(requests, made.run.history.events))
    lost = analyze(run).totals.lost
    assert lost == made.result.totals.lost + int(struck.sum())
    load = Case.of(run).load
    assert findings.outcomes(load, series.bin_load(load)).startswith(f"{lost:,} bad answers while the fault lasted")
    odd = replace(
        requests, t_done=np.where(struck, zero - 200_000_000, done), outcome=columns.outcome
    )  # done too early
    contradicting = Run(made.run.header, made.run.schedule, History(odd, made.run.history.events))
    judged = Case.of(contradicting).load
    assert int(judged.unknown.sum()) == analyze(contradicting).totals.unknown > 0


def test_sent_is_not_recorded(sample: ModuleType) -> None:
    made = sample.build()
    validity = replace(made.result.validity, scheduled=200, recorded=200, achieved_ratio=0.5)
    page = html.render(made.run, replace(made.result, validity=validity), "").decode()
    assert "<dt>sent</dt><dd>50.00 % of the plan</dd>" in page
    assert "<dt>recorded</dt><dd>200 (100 % of the plan)</dd>" in page


def test_an_interruption_says_what_is_known_of_the_healing(sample: ModuleType) -> None:
    made = sample.build()
    origin = Case.of(made.run).edges.zero

    def told(*events: Op) -> str:
        keep = tuple(op for op in made.run.history.events if op.kind not in (FAULT_HEAL, FAULT_HEALED))
        run = Run(made.run.header, made.run.schedule, History(made.run.history.requests, (*keep, *events)))
        return next(p.text for p in timeline.posts(Case.of(run), made.result) if p.status == "Interrupted")

    def event(kind: str, outcome: str = "ok", cluster: str = "cobalt") -> Op:
        t = origin + 30_000_000_000
        return Op(source="runner", process="runner", kind=kind, t_intended=t, outcome=outcome, cluster=cluster)  # type: ignore[arg-type]

    stopped = event(INTERRUPTED, "fail", "")
    assert told(stopped).endswith("no healing was recorded after it.")
    assert "cobalt was not verified back" in told(stopped, event(FAULT_HEAL))
    assert "cobalt was not verified back" in told(stopped, event(FAULT_HEAL), event(FAULT_HEALED, "fail"))
    assert "healed, and verified back" in told(stopped, event(FAULT_HEAL), event(FAULT_HEALED))


def test_the_timeline_speaks_status_words_in_order(sample: ModuleType) -> None:
    made = sample.build()
    posts = timeline.posts(Case.of(made.run), made.result)
    assert [post.t_s for post in posts] == sorted(post.t_s for post in posts)
    status = [post.status for post in posts]
    assert status[:5] == ["Fault", "Investigating", "Identified", "Monitoring", "Resolved"]
    assert "Meanwhile use" not in " ".join(p.text for p in posts)  # davinci itself was hit: no advice
    assert posts[0].wall == "08:15:23"


def test_fallback_advice_names_only_models_that_were_not_hit(sample: ModuleType) -> None:
    made = sample.build()
    models = {**made.result.models, "davinci": replace(made.result.models["davinci"], unaffected=True)}
    posts = timeline.posts(Case.of(made.run), replace(made.result, models=models))
    assert "Meanwhile use davinci for curie" in next(p.text for p in posts if p.status == "Identified")


def test_relapse_and_dip_windows_are_shaded(sample: ModuleType) -> None:
    made = sample.build()
    extra = (WindowSpan("relapse", "curie", 20.0, 25.0), WindowSpan("dip", "curie", 45.0, 47.0))
    result = replace(made.result, windows=(*made.result.windows, *extra))
    assert b"relapsed after it had recovered" in html.render(made.run, result, "")
    before = chartset.build(Case.of(made.run), made.result)
    after = chartset.build(Case.of(made.run), result)
    boxes = [sum(type(a).__name__ == "BoxAnnotation" for a in charts[1].figure.center) for charts in (before, after)]
    assert boxes[1] == boxes[0] + 2


def test_error_and_slowest_tables(sample: ModuleType) -> None:
    made = sample.build()
    load = Case.of(made.run).load
    errors = tables.errors(load)
    assert [row[0] for row in errors.rows[:2]] == ["refused", "timeout"]
    assert sum(int(row[2].replace(",", "")) for row in errors.rows) == int((~load.good).sum())
    slowest = tables.slowest(load)
    assert len(slowest.rows) == 10
    assert slowest.rows[0][2] == "timeout"


def test_many_models_are_grouped_by_class(sample: ModuleType) -> None:
    many = sample.many_fine_tunes(200)
    drawn = strips.build(many.result, None, 1.0)
    headings = [row.name for row in drawn.rows if row.heading]
    assert headings[0] == "ft-curie (133 models)"  # it holds the model that never came back
    assert len(drawn.rows) < 15
    page = html.render(many.run, many.result, "").decode()
    table = page.partition('aria-label="Phases by model"')[2].partition("</table>")[0]
    assert table.count("<tr><td>") == 200
    assert "2 better models are left out here" in page


def test_all_three_reports_of_a_real_analysis(sample: ModuleType) -> None:
    made = sample.build()
    result = analyze(made.run)
    text = html.render(made.run, result, made.drill_text).decode()
    assert html.render(made.run, analyze(made.run), made.drill_text).decode() == text
    assert result.fleet is not None
    assert f"{result.totals.lost:,} of {result.fleet.sent:,}" in text
    assert result.verdict.upper() in text
    for name, model in result.models.items():
        assert name in text
        if model.recovered_s is not None:
            assert words.interval(model.recovered_s) in text
    assert ET.fromstring(junit.render(result)).tag == "testsuites"
    assert result.verdict.upper().encode() in summary.render(made.run, result)


def test_a_run_without_a_fault_or_without_any_event_has_all_reports(sample: ModuleType) -> None:
    made = sample.build()
    for events in (made.run.history.events[:1], ()):
        run = Run(made.run.header, made.run.schedule, History(made.run.history.requests, events))
        result = analyze(run)
        assert result.verdict == "unknown"
        text = html.render(run, result, "").decode()
        assert "No fault was injected." in text
        assert "? UNKNOWN" in text.replace('<span aria-hidden="true">?</span>', "?")
        assert "recovery not measured" in text
        assert ET.fromstring(junit.render(result)).attrib["errors"] != "0"
        assert b"? UNKNOWN" in summary.render(run, result)
