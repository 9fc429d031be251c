"""Packing: never a fit that does not exist, never a fit missed, important ones first."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.packing import _best_fit, admit, pack

needs_and_free = st.tuples(
    st.lists(st.integers(1, 7), max_size=6).map(tuple), st.lists(st.integers(0, 10), min_size=1, max_size=4).map(tuple)
)


def holds(needs: tuple[int, ...], places: tuple[int | None, ...], free: tuple[int, ...]) -> bool:
    """Does no node get more than it has?"""
    used = [0] * len(free)
    for need, place in zip(needs, places, strict=True):
        if place is not None:
            used[place] += need
    return all(u <= f for u, f in zip(used, free, strict=True))


def fits_by_trying_everything(needs: tuple[int, ...], free: tuple[int, ...]) -> bool:
    return any(holds(needs, places, free) for places in product(range(len(free)), repeat=len(needs)))


@given(needs_and_free)
@settings(max_examples=400, deadline=None)
def test_pack_agrees_with_trying_everything(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    needs, free = case
    places = pack(needs, free)
    assert (places is not None) == fits_by_trying_everything(needs, free)
    if places is not None:
        assert holds(needs, places, free)


def test_pack_where_best_fit_decreasing_fails() -> None:
    needs, free = (4, 3, 3, 2, 2, 2), (8, 8)
    assert _best_fit(needs, list(free)) is None  # 4+3 together, and then no room for the last 2
    places = pack(needs, free)
    assert places is not None
    assert holds(needs, places, free)


def test_pack_gives_up_rather_than_claims() -> None:
    assert pack((5, 5, 4, 4, 3, 3), (12, 12), limit=0) is None


def test_pack_refuses_a_replica_without_gpus() -> None:
    with pytest.raises(ValueError, match="at least 1 GPU"):
        pack((0,), (1,))


@given(needs_and_free)
@settings(max_examples=200, deadline=None)
def test_admit_takes_in_order_whatever_still_packs(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    needs, free = case
    places = admit(needs, free)
    assert holds(needs, places, free)
    taken: list[int] = []
    for need, place in zip(needs, places, strict=True):
        assert (place is not None) == fits_by_trying_everything((*taken, need), free)
        if place is not None:
            taken.append(need)


def test_admit_lets_a_small_one_in_after_a_large_one_was_left_out() -> None:
    assert admit((2, 4, 1), (3,)) == (0, None, 0)
