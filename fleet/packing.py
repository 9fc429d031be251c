"""Exact packing of replicas onto nodes: the one arithmetic of "does it fit" for forecast, allocator and fleet checks.

Pure functions over integers: ``needs`` are GPUs of replicas, ``free`` are free GPUs of nodes; a replica never spans
nodes. They never claim a fit that does not exist; only beyond ``LIMIT`` steps may they miss one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

LIMIT: Final = 50_000
"""Steps of branch and bound before the search gives up."""


def pack(needs: Sequence[int], free: Sequence[int], *, limit: int = LIMIT) -> tuple[int, ...] | None:
    """The node index for each need, in the order of ``needs``; None where no packing was found.

    Best fit decreasing decides at once when every size divides the next larger one (then any fit decreasing is
    exact: Coffman, Garey, Johnson 1987, by exchange also for unequal bins); else branch and bound, at most ``limit``
    steps. Sizes of 0 or less are an error of the caller.
    """
    if any(need <= 0 for need in needs):
        raise ValueError(f"needs {tuple(needs)}: every replica needs at least 1 GPU")
    order = sorted(range(len(needs)), key=lambda i: (-needs[i], i))
    sizes = [needs[i] for i in order]
    if sum(sizes) > sum(room for room in free if room > 0):
        return None
    found = _best_fit(sizes, list(free))
    if found is None and not _divide_each_other(sizes):
        found = _Search(sizes, list(free), limit).run()
    if found is None:
        return None
    bins = [0] * len(needs)
    for place, item in zip(found, order, strict=True):
        bins[item] = place
    return tuple(bins)


def admit(needs: Sequence[int], free: Sequence[int]) -> tuple[int | None, ...]:
    """Takes ``needs`` in their order (most important first) as long as all taken together still pack.

    Returns the node index of each need, None for those left out. A later, smaller need may fit where an earlier one
    did not. This order is what the reference allocator promises: nobody is displaced, the important come first.
    """
    taken: list[int] = []
    packed: tuple[int, ...] = ()
    for index in range(len(needs)):
        trial = pack([needs[i] for i in (*taken, index)], free)
        if trial is not None:
            taken.append(index)
            packed = trial
    places: list[int | None] = [None] * len(needs)
    for index, place in zip(taken, packed, strict=True):
        places[index] = place
    return tuple(places)


def _divide_each_other(sizes: Sequence[int]) -> bool:
    ordered = sorted(set(sizes))
    return all(large % small == 0 for small, large in pairwise(ordered))


def _best_fit(sizes: Sequence[int], free: list[int]) -> list[int] | None:
    """Each size (descending) to the node that it leaves fullest; the first of equals."""
    places = []
    for size in sizes:
        fitting = [i for i, room in enumerate(free) if room >= size]
        if not fitting:
            return None
        best = min(fitting, key=lambda i: (free[i], i))
        free[best] -= size
        places.append(best)
    return places


class _Search:
    """Depth-first search, largest size first; nodes of equal room are tried once, equal sizes in one order."""

    def __init__(self, sizes: Sequence[int], free: list[int], limit: int) -> None:
        self._sizes = sizes
        self._free = free
        self._left = limit
        self._places: list[int] = []

    def run(self) -> list[int] | None:
        return self._places if self._place(0) else None

    def _place(self, item: int) -> bool:
        if item == len(self._sizes):
            return True
        size = self._sizes[item]
        if sum(room for room in self._free if room >= self._sizes[-1]) < sum(self._sizes[item:]):
            return False
        first = self._places[-1] if item and self._sizes[item - 1] == size else 0
        seen: set[int] = set()
        for node in range(first, len(self._free)):
            room = self._free[node]
            if room < size or room in seen:
                continue
            self._left -= 1
            if self._left < 0:
                return False
            if node > first or not item or self._sizes[item - 1] != size:
                seen.add(room)
            self._free[node] -= size
            self._places.append(node)
            if self._place(item + 1):
                return True
            self._places.pop()
            self._free[node] += size
        return False
