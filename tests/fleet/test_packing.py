"""Packing: never a fit that does not exist, never a fit missed, important ones first."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import packing
from fleet.packing import (
    Slots,
    _best_fit,
    admit,
    admit_bounds,
    at_most,
    divide_each_other,
    packs_by_counts,
    short_gpus,
)

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


def test_a_packing_is_found_where_best_fit_decreasing_fails() -> None:
    needs, free = (4, 3, 3, 2, 2, 2), (8, 8)
    assert _best_fit(needs, list(free)) is None  # 4+3 together, and then no room for the last 2
    places = admit(needs, free)
    assert None not in places
    assert holds(needs, places, free)


def test_slots_refuse_a_replica_without_gpus() -> None:
    with pytest.raises(ValueError, match="at least 1 GPU"):
        Slots.of((1,), (0,))


@given(needs_and_free)
@settings(max_examples=400, deadline=None)
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


@given(needs_and_free)
@settings(max_examples=300, deadline=None)
def test_sums_never_exclude_a_packing_and_are_exact_while_sizes_divide_each_other(
    case: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    needs, free = case
    fits = fits_by_trying_everything(needs, free)
    short = short_gpus(Counter(needs), Slots.of(free, set(needs)))
    assert not (fits and short > 0)
    if divide_each_other(needs):
        assert fits == (short <= 0)


@given(needs_and_free)
@settings(max_examples=300, deadline=None)
def test_best_fit_by_counts_is_best_fit(case: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    needs, free = case
    assert packs_by_counts(Counter(needs), Counter(free)) == (_best_fit(needs, free) is not None)


@given(needs_and_free, st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_where_the_search_gives_up_the_answers_are_bounds(
    case: tuple[tuple[int, ...], tuple[int, ...]], steps: int
) -> None:
    needs, free = case
    exact = admit(needs, free)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "LIMIT", steps)
        found = admit_bounds(needs, free)
    assert holds(needs, found.places, free)
    sure = [(one is None) == (other is None) for one, other in zip(found.places, exact, strict=True)]
    assert all(sure[: found.sure])
    if found.sure == len(needs):
        assert all(sure)
    for size in set(needs):
        asked = [i for i in range(len(needs)) if needs[i] == size]
        held = Counter(needs[i] for i in range(found.sure) if i not in asked and found.places[i] is not None)
        limit = at_most(size, len(asked), held, Slots.of(free, set(needs)))
        assert sum(exact[i] is not None for i in asked) <= limit


def test_many_replicas_of_odd_sizes_are_bounds_and_take_no_search() -> None:
    needs, free = (5, 3) * 60, (8,) * 55 + (7,) * 3
    found = admit_bounds(needs, free)
    assert holds(needs, found.places, free)
    assert sum(place is not None for place in found.places) >= 110
    assert found.sure < len(needs)


def test_searches_are_bounded_in_looks_whatever_the_number_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    class Counted(list[int]):
        def __getitem__(self, node: Any) -> Any:
            looks.append(1)
            return super().__getitem__(node)

    made = packing._Search.__init__

    def counting(self: Any, needs: Any, free: Any, steps: list[int]) -> None:
        made(self, needs, free, steps)
        assert len(self._free) == len(rooms), "full nodes are left out"
        self._free = Counted(self._free)

    monkeypatch.setattr(packing._Search, "__init__", counting)
    needs, rooms = (3, 4, 5, 7) * 12, (7, 8, 9, 11) * 6 + (7, 11)  # 228 GPUs on 228
    free = (0,) * 5000 + rooms + (2,) * 5000
    found = admit_bounds(needs, free, most=2_000)
    assert holds(needs, found.places, free)
    assert found.sure < len(needs)
    assert 1_000 <= len(looks) <= 2_000 * 5, "each look, and twice what was taken and given back"
