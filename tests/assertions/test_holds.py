"""How many good ops prove a ratio, where a hold starts, and what counts as a relapse."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special

from assertions.holds import CONFIDENCE, HOLD_NS, certified_holds, ops_needed, proves, relapses

S = 1_000_000_000
Bools = NDArray[np.bool_]


def times(count: int, rate_rps: float) -> NDArray[np.int64]:
    return (np.arange(count) * (S / rate_rps)).astype(np.int64)


def marked(count: int, *bad: int | range) -> Bools:
    made = np.zeros(count, np.bool_)
    for one in bad:
        made[one if isinstance(one, int) else slice(one.start, one.stop)] = True
    return made


@pytest.mark.parametrize(
    ("ratio", "bad", "needed"),
    [(0.90, 0, 29), (0.95, 0, 59), (0.99, 0, 299), (0.99, 1, 473), (0.90, 1, 46), (0.5, 0, 5)],
)
def test_ops_needed_is_exact(ratio: float, bad: int, needed: int) -> None:
    assert ops_needed(ratio, bad) == needed


@given(st.floats(0.05, 0.995), st.integers(0, 30))
def test_ops_needed_is_the_least_that_proves(ratio: float, bad: int) -> None:
    needed = ops_needed(ratio, bad)
    assert proves(needed, bad, ratio)
    assert needed == bad + 1 or not proves(needed - 1, bad, ratio)
    assert special.bdtr(bad, needed, 1 - ratio) <= 1 - CONFIDENCE


@pytest.mark.parametrize(
    ("ratio", "bad", "confidence"), [(1.0, 0, 0.95), (0.0, 0, 0.95), (0.9, -1, 0.95), (0.9, 0, 1.0)]
)
def test_what_counting_cannot_prove_is_refused(ratio: float, bad: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"ratio|bad"):
        ops_needed(ratio, bad, confidence)


def test_a_hold_needs_its_ops_and_three_seconds() -> None:
    slow, fast = times(40, 4.0), times(1_000, 120.0)
    (held,) = certified_holds(slow, marked(40, 0), 0, 0.90)
    assert (held.last_bad, held.start, held.certified) == (0, 1, 29)  # 29 ops at 4 rps: 7 s
    (held,) = certified_holds(fast, marked(1_000, 0), 0, 0.90)
    assert (held.start, held.certified) == (1, 361)  # 29 ops would be 0.24 s: 3 s rule
    assert fast[held.certified] - fast[held.start] >= HOLD_NS
    assert certified_holds(slow[:29], marked(29, 0), 0, 0.90) == ()  # 28 good ops prove nothing
    assert certified_holds(fast[:361], marked(361, 0), 0, 0.90) == ()


def test_no_bad_op_is_tolerated_in_the_certifying_part() -> None:
    (held,) = certified_holds(times(200, 4.0), marked(200, 0, 20), 0, 0.90)
    assert (held.last_bad, held.start) == (20, 21)


def test_lucky_runs_in_a_degraded_phase_are_not_sustained() -> None:
    bad = marked(200, 0, *range(40, 200, 4))  # 39 in a row are good by luck, then one of four fails for ever
    first, *others = certified_holds(times(200, 4.0), bad, 0, 0.90)
    assert first.start == 1
    assert not first.sustained
    assert others == []
    healthy = marked(600, 0, *range(40, 80, 4))
    first, second = certified_holds(times(600, 4.0)[:150], healthy[:150], 0, 0.90)
    assert (first.start, first.sustained, second.start, second.sustained) == (1, False, 77, True)
    (only,) = certified_holds(times(600, 4.0), healthy, 0, 0.90)  # seen long enough, ten bad of 600 are within 0.90
    assert (only.start, only.sustained) == (1, True)


@given(st.lists(st.booleans(), min_size=40, max_size=150), st.data())
def test_adding_good_ops_never_delays_a_hold(flags: list[bool], data: st.DataObject) -> None:
    bad = np.array([True, *flags])
    t = times(len(bad), 10.0)
    at = data.draw(st.integers(1, len(bad)))
    more = data.draw(st.integers(1, 10))
    gap_start = t[at - 1]
    gap_end = t[at] if at < len(t) else t[-1] + S
    added = np.linspace(gap_start, gap_end, more + 2).astype(np.int64)[1:-1]
    t2, bad2 = np.insert(t, at, added), np.insert(bad, at, False)
    if more > 1:
        bad2 = np.insert(bad, [at] * more, False)
    before, after = certified_holds(t, bad, 0, 0.5), certified_holds(t2, bad2, 0, 0.5)
    if before:
        assert t2[after[0].start] <= t[before[0].start]
    sustained, sustained2 = ([h for h in hs if h.sustained] for hs in (before, after))
    if sustained:
        assert t2[sustained2[0].start] <= t[sustained[0].start]


def test_a_short_total_relapse_in_a_long_quiet_stretch_is_found() -> None:
    count = 60 * 120
    t = times(count, 120.0)
    assert relapses(t, marked(count, range(3_000, 3_060)), 0.99) == ((3_000, 3_059),)
    (one, two) = relapses(t, marked(count, range(1_000, 1_060), range(5_000, 5_090)), 0.99)
    assert one == (1_000, 1_059)
    assert two == (5_000, 5_089)
    assert special.bdtrc(59, count, 0.01) > 0.001  # the total alone would not have seen it


def test_a_thin_relapse_is_found_by_its_total() -> None:
    bad = marked(2_000, *range(0, 2_000, 50))  # 2 % everywhere, 1 % promised
    assert relapses(times(2_000, 120.0), bad, 0.99) == ((0, 1_950),)


def test_bursts_within_milliseconds_are_no_relapse() -> None:
    count = 60 * 120
    assert relapses(times(count, 120.0), marked(count, range(3_000, 3_006)), 0.99) == ()
    assert relapses(times(count, 120.0), marked(count), 0.99) == ()
    assert relapses(times(0, 120.0), marked(0), 0.99) == ()


@given(st.lists(st.integers(0, 599), max_size=60), st.integers(0, 599))
def test_a_further_bad_op_never_hides_a_relapse(bad_at: list[int], more: int) -> None:
    t, bad = times(600, 30.0), marked(600, *bad_at)
    worse = bad.copy()
    worse[more] = True
    assert bool(relapses(t, worse, 0.95)) or not relapses(t, bad, 0.95)


@pytest.mark.parametrize(("ratio", "rate_rps"), [(0.99, 120.0), (0.90, 4.0), (0.90, 12.0)])
def test_healthy_runs_hardly_ever_relapse(ratio: float, rate_rps: float) -> None:
    """30 s with 0.1 % background failures: a naive rule finds a relapse in 58 % (FACTS 4); ours in at most 0.2 %."""
    chance, count, runs = np.random.default_rng(11), round(30 * rate_rps), 2_000
    t = times(count, rate_rps)
    found = sum(bool(relapses(t, chance.random(count) < 0.001, ratio)) for _ in range(runs))
    assert found / runs <= 0.002
    naive = sum(bool((chance.random(3_600) < 0.001).any()) for _ in range(200))
    assert naive / 200 > 0.5


def test_relapses_at_exactly_the_promised_ratio_are_rare() -> None:
    chance, runs = np.random.default_rng(12), 2_000
    t = times(3_600, 120.0)
    found = sum(bool(relapses(t, chance.random(3_600) < 0.01, 0.99)) for _ in range(runs))
    assert found / runs <= 0.005  # two tests at 0.001 each


@pytest.mark.parametrize(("true_ratio", "rate_rps"), [(0.85, 4.0), (0.85, 12.0), (0.80, 4.0)])
def test_an_unrecovered_scope_is_hardly_ever_certified(true_ratio: float, rate_rps: float) -> None:
    """60 s at a ratio below the promised 0.90: many starts are tried, so a run of 29 alone would certify a quarter.

    What is left (a hold that later ops neither refute nor fail to confirm) must stay within the 5 % of one test.
    """
    chance, runs, count = np.random.default_rng(13), 600, round(60 * rate_rps)
    t = times(count, rate_rps)
    found: Counter[str] = Counter()
    for _ in range(runs):
        bad = chance.random(count) > true_ratio
        bad[0] = True
        holds = certified_holds(t, bad, 0, 0.90)
        found["lucky"] += bool(holds)
        if (
            holds
            and holds[0].sustained
            and not relapses(t[holds[0].certified + 1 :], bad[holds[0].certified + 1 :], 0.90)
        ):
            found["certified"] += 1
    assert found["certified"] / runs <= 0.05
    if true_ratio == 0.85:
        assert found["lucky"] / runs > 0.10  # the correction is needed
