"""The plan: pure, seeded, sorted, within its horizon; shares hold everywhere; slices are disjoint and complete."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from history.clock import NS_PER_S
from history.errors import UsageError
from history.records import LoadSpec, Mix, MixEntry
from loadgen.schedule import draw, slice_of

CONSTANT = LoadSpec("constant", 100.0, 500.0, 0.9, 5.0, 10.0, seed=7)
MIX = Mix((MixEntry("a", "chat", 0.7), MixEntry("b", "completion", 0.3)))


def mix_of(shares: list[float]) -> Mix:
    total = sum(shares)
    return Mix(tuple(MixEntry(f"m{i}", "chat", share / total) for i, share in enumerate(shares)))


@pytest.mark.parametrize(
    ("load", "expected", "within"),
    [
        (CONSTANT, 1000, 1),
        (replace(CONSTANT, rate_rps=0.5), 5, 1),
        (replace(CONSTANT, rate_rps=2000.0, horizon_s=1.0), 2000, 1),
        (replace(CONSTANT, shape="ramp", rate_from_rps=0.0, ramp_s=10.0), 500, 1),
        (replace(CONSTANT, shape="ramp", rate_from_rps=20.0, ramp_s=5.0), 300 + 500, 1),
        (replace(CONSTANT, shape="ramp", rate_from_rps=200.0, ramp_s=10.0), 1500, 1),
        (replace(CONSTANT, shape="ramp", rate_from_rps=100.0, ramp_s=4.0), 1000, 1),
        (replace(CONSTANT, shape="ramp", rate_from_rps=0.0, ramp_s=20.0), 250, 1),
        (replace(CONSTANT, shape="poisson"), 1000, 5 * math.sqrt(1000)),
    ],
)
def test_number_of_sends(load: LoadSpec, expected: int, within: float) -> None:
    assert abs(len(draw(load, MIX)) - expected) <= within


def test_constant_gaps_are_equal() -> None:
    gaps = np.diff(draw(CONSTANT, MIX).offset_ns)
    assert gaps.min() >= 9_999_999
    assert gaps.max() <= 10_000_001


def test_ramp_is_at_half_its_rate_halfway() -> None:
    load = replace(CONSTANT, shape="ramp", rate_from_rps=0.0, ramp_s=10.0, rate_rps=400.0)
    offset_s = draw(load, MIX).offset_ns / NS_PER_S
    assert np.count_nonzero((offset_s > 4.75) & (offset_s < 5.25)) == pytest.approx(100, abs=2)
    assert np.count_nonzero(offset_s < 5) == pytest.approx(500, abs=1)


def test_poisson_gaps_are_exponential() -> None:
    gaps_s = np.diff(draw(replace(CONSTANT, shape="poisson", horizon_s=200.0), MIX).offset_ns) / NS_PER_S
    assert gaps_s.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps_s.std() == pytest.approx(0.01, rel=0.03)  # an exponential's deviation is its mean


def test_equal_shares_take_turns() -> None:
    entry = draw(CONSTANT, mix_of([1.0] * 10)).entry
    assert all(set(entry[i : i + 10]) == set(range(10)) for i in range(0, 1000, 10))


def test_another_seed_is_another_plan() -> None:
    one, other = draw(CONSTANT, MIX), draw(replace(CONSTANT, seed=8), MIX)
    assert one.offset_ns[0] != other.offset_ns[0]
    assert not np.array_equal(one.entry[:900], other.entry[:900])


@pytest.mark.parametrize(
    ("changes", "mix", "said"),
    [
        ({"rate_rps": 0.0}, MIX, "rate_rps=0"),
        ({"horizon_s": -1.0}, MIX, "horizon_s=-1"),
        ({"shape": "ramp"}, MIX, "ramp_s=0"),
        ({"rate_rps": 1e9}, MIX, "20,000,000 sends"),
        ({}, Mix(()), "no entry"),
        ({}, Mix((MixEntry("a", "chat", 0.5),)), "sum to 0.5"),
        ({}, Mix((MixEntry("a", "chat", 1.5), MixEntry("b", "chat", -0.5))), "share of b is -0.5"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], mix: Mix, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        draw(replace(CONSTANT, **changes), mix)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(UsageError) as raised:
        draw(replace(CONSTANT, rate_rps=-1.0, horizon_s=0.0), Mix(()))
    assert len(raised.value.problems) == 3


loads = st.builds(
    LoadSpec,
    shape=st.sampled_from(["constant", "ramp", "poisson"]),
    rate_rps=st.floats(0.1, 300),
    good_within_ms=st.just(500.0),
    connect_timeout_s=st.just(0.9),
    total_timeout_s=st.just(5.0),
    horizon_s=st.floats(0.1, 20),
    seed=st.integers(0, 2**32),
    rate_from_rps=st.floats(0, 300),
    ramp_s=st.floats(0.1, 30),
)
mixes = st.lists(st.floats(0.01, 1), min_size=1, max_size=12).map(mix_of)


@settings(max_examples=150, deadline=None)
@given(loads, mixes)
def test_any_plan_is_sorted_within_its_horizon_and_repeatable(load: LoadSpec, mix: Mix) -> None:
    plan, again = draw(load, mix), draw(load, mix)
    assert np.array_equal(plan.offset_ns, again.offset_ns)
    assert np.array_equal(plan.entry, again.entry)
    assert len(plan.offset_ns) == len(plan.entry)
    assert (np.diff(plan.offset_ns) >= 0).all()
    assert len(plan) == 0 or (plan.offset_ns[0] >= 0 and plan.offset_ns[-1] < load.horizon_s * NS_PER_S)


@settings(max_examples=100, deadline=None)
@given(mixes, st.integers(1, 2**32))
def test_every_stretch_of_the_plan_has_each_share(mix: Mix, seed: int) -> None:
    """In the first n sends each entry has n times its share, off by at most one send an entry of the mix."""
    entry = draw(replace(CONSTANT, seed=seed), mix).entry
    n = np.arange(1, len(entry) + 1)
    for k, part in enumerate(mix.entries):
        assert np.abs(np.cumsum(entry == k) - n * part.share).max() <= len(mix.entries) / 2 + 1


@settings(max_examples=100, deadline=None)
@given(mixes, st.integers(1, 2**32))
def test_no_model_waits_much_longer_than_its_mean_gap(mix: Mix, seed: int) -> None:
    entry = draw(replace(CONSTANT, seed=seed), mix).entry
    for k, part in enumerate(mix.entries):
        gaps = np.diff(np.flatnonzero(entry == k))
        assert not len(gaps) or gaps.max() <= 1 / part.share + len(mix.entries)


@given(st.integers(0, 500), st.integers(1, 9))
def test_slices_are_disjoint_and_complete(sends: int, workers: int) -> None:
    slices = [slice_of(sends, index, workers) for index in range(workers)]
    assert sorted(np.concatenate(slices).tolist()) == list(range(sends))
    assert all((part % workers == index).all() for index, part in enumerate(slices))


@pytest.mark.parametrize("index", [-1, 2])
def test_a_worker_beyond_the_last_has_no_slice(index: int) -> None:
    with pytest.raises(ValueError, match="worker index"):
        slice_of(10, index, 2)
