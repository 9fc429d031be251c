"""Packing replicas onto nodes: the one arithmetic of "does it fit" for forecast, allocator and fleet checks.

Pure functions over integers: ``needs`` are GPUs of replicas, ``free`` are free GPUs of nodes; a replica never spans
nodes. A fit is only ever claimed with a place for each replica in hand.

While every size divides the next larger one, whether a set packs is a sum, and exact: a node of r free GPUs has
floor(r/s) slots of size s, and a replica of size t >= s takes t/s of them wherever it stands; so the set packs if and
only if, for each size s in it, its replicas of size s or more need no more slots than there are (the exchange argument
of Coffman, Garey, Johnson 1987, for unequal bins; any fit decreasing then finds the places). For other sizes the
same sum with floor(t/s) is only necessary: best fit decreasing and a bounded search decide what they can, and
``Admitted.sure`` says how far the answer is exact.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

LIMIT: Final = 200_000
"""Nodes that branch and bound looks at before it gives up; all searches of one ``admit_bounds`` share as many."""

SEARCHABLE: Final = 64
"""With more replicas than this there is no search: it would only use its steps up."""


@dataclass(frozen=True)
class Admitted:
    """Who gets a place. ``places``: node index of each need, None for those left out.

    ``sure``: how many needs, from the first, are decided exactly; beyond it, None means "none was found".
    """

    places: tuple[int | None, ...]
    sure: int


def admit(needs: Sequence[int], free: Sequence[int]) -> tuple[int | None, ...]:
    """Takes ``needs`` in their order (most important first) as long as all taken together still pack.

    Returns the node index of each need, None for those left out. A later, smaller need may fit where an earlier one
    did not. This order is what the reference allocator promises: nobody is displaced, the important come first.
    """
    return admit_bounds(needs, free).places


def admit_bounds(needs: Sequence[int], free: Sequence[int], most: int | None = None) -> Admitted:
    """``admit``, with how far its answer is exact. ``most``: nodes that its searches look at, ``LIMIT`` by default."""
    least = min(needs, default=0)
    nodes = [node for node, room in enumerate(free) if room >= least]
    found = _admit(needs, [free[node] for node in nodes], LIMIT if most is None else most)
    return Admitted(tuple(None if place is None else nodes[place] for place in found.places), found.sure)


def _admit(needs: Sequence[int], free: Sequence[int], most: int) -> Admitted:
    """``admit_bounds`` on nodes that all have room for the smallest need."""
    if (whole := _best_fit(needs, free)) is not None:
        return Admitted(whole, len(needs))
    slots, rooms = Slots.of(free, set(needs)), Counter(free)
    exact, steps = divide_each_other(needs), [most]
    taken: list[int] = []
    held: Counter[int] = Counter()
    sure = len(needs)
    searched: tuple[int, ...] | None = None
    for index, need in enumerate(needs):
        held[need] += 1
        if _may_pack(held, slots):
            found, fits = None, exact or packs_by_counts(held, rooms)
            if not fits and len(taken) < SEARCHABLE and steps[0] >= 0:
                found = _Search([needs[i] for i in (*taken, index)], free, steps).run()
            if fits or found is not None:
                taken.append(index)
                searched = found
                continue
            if len(taken) >= SEARCHABLE or steps[0] < 0:
                sure = min(sure, index)
        held[need] -= 1
    packed = searched if searched is not None else _best_fit([needs[i] for i in taken], free)
    assert packed is not None, "what was taken packs"
    places: list[int | None] = [None] * len(needs)
    for index, place in zip(taken, packed, strict=True):
        places[index] = place
    return Admitted(tuple(places), sure)


def at_most(size: int, count: int, held: Mapping[int, int], slots: Slots) -> int:
    """No more than this many of ``count`` replicas of ``size`` can find a place beside ``held`` (size -> how many)."""
    while count and not _may_pack({**held, size: held.get(size, 0) + count}, slots):
        count -= 1
    return count


def divide_each_other(sizes: Iterable[int]) -> bool:
    """Does every size divide the next larger one?"""
    return all(large % small == 0 for small, large in pairwise(sorted(set(sizes))))


@dataclass(frozen=True)
class Slots:
    """``of_size[s]``: how many replicas of size s the nodes could take if there were no others. Sums and differences
    of nodes are sums and differences of slots, so that a loss costs no look at the survivors."""

    of_size: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, free: Iterable[int], sizes: Iterable[int]) -> Slots:
        """Of nodes with these free GPUs, for these sizes. ``ValueError`` for a size of 0 or less."""
        wanted = tuple(sizes)
        if any(size <= 0 for size in wanted):
            raise ValueError(f"needs {wanted}: every replica needs at least 1 GPU")
        rooms = Counter(room for room in free if room > 0)
        return cls({size: sum(count * (room // size) for room, count in rooms.items()) for size in wanted})

    def minus(self, other: Slots) -> Slots:
        """Without the nodes of ``other``."""
        return Slots({size: count - other.of_size.get(size, 0) for size, count in self.of_size.items()})


def short_gpus(needs: Mapping[int, int], slots: Slots) -> int:
    """At least so many GPUs of ``needs`` (size -> how many) find no place; 0 = nothing says that they do not pack.
    While sizes divide each other, 0 means that they pack."""
    worst = 0
    for size, room in slots.of_size.items():
        wanted = sum(count * (other // size) for other, count in needs.items() if other >= size)
        worst = max(worst, (wanted - room) * size)
    return worst


def packs_by_counts(needs: Mapping[int, int], rooms: Mapping[int, int]) -> bool:
    """Does best fit decreasing pack ``needs`` (size -> how many) into ``rooms`` (free GPUs -> how many nodes)?"""
    left = Counter({room: count for room, count in rooms.items() if room > 0 and count > 0})
    for size in sorted(needs, reverse=True):
        waiting = needs[size]
        while waiting > 0:
            room = min((room for room, count in left.items() if room >= size and count > 0), default=0)
            if not room:
                return False
            each = room // size
            full, rest = divmod(waiting, each)
            used = min(full, left[room])
            if used:
                waiting -= used * each
                left[room] -= used
                left[room - each * size] += used
            elif rest:
                left[room] -= 1
                left[room - rest * size] += 1
                waiting = 0
    return True


def _may_pack(needs: Mapping[int, int], slots: Slots) -> bool:
    return short_gpus(needs, slots) <= 0


def _best_fit(needs: Sequence[int], free: Sequence[int]) -> tuple[int, ...] | None:
    """Each need, largest first, to the node that it leaves fullest; the first of equals."""
    rooms, places = Rooms(free), [0] * len(needs)
    for item in sorted(range(len(needs)), key=lambda i: -needs[i]):
        node = rooms.take(needs[item])
        if node is None:
            return None
        places[item] = node
    return tuple(places)


class Rooms:
    """Nodes by their free GPUs, for one best fit after the other. ``total``: all that is free."""

    def __init__(self, free: Sequence[int]) -> None:
        self.total = sum(free)
        self._nodes: dict[int, list[int]] = {}
        for node, room in enumerate(free):
            self._nodes.setdefault(room, []).append(node)  # ascending, so a heap as it stands
        self._values = sorted(self._nodes)

    @property
    def largest(self) -> int:
        """Free GPUs of the emptiest node."""
        return self._values[-1] if self._values else 0

    def take(self, need: int) -> int | None:
        """Takes ``need`` GPUs on the node that it leaves fullest, the first of equals; None when none has as many."""
        at = bisect_left(self._values, need)
        if at == len(self._values):
            return None
        room = self._values[at]
        node = heapq.heappop(self._nodes[room])
        if not self._nodes[room]:
            del self._nodes[room], self._values[at]
        if room - need not in self._nodes:
            self._nodes[room - need] = []
            insort(self._values, room - need)
        heapq.heappush(self._nodes[room - need], node)
        self.total -= need
        return node


class _Search:
    """Depth-first search, largest size first; nodes of equal room are tried once, equal sizes in one order.

    ``steps`` is a budget of looks at a node that searches may share; below 0 it is used up, and nothing found proves
    nothing.
    """

    def __init__(self, needs: Sequence[int], free: Sequence[int], steps: list[int]) -> None:
        self._order = sorted(range(len(needs)), key=lambda i: (-needs[i], i))
        self._sizes = [needs[i] for i in self._order]
        self._free = list(free)
        self._usable = sum(
            room for room in free if room >= self._sizes[-1]
        )  # on nodes that still have room for the smallest
        self._left = sum(self._sizes)
        self._steps = steps
        self._places: list[int] = []

    def run(self) -> tuple[int, ...] | None:
        if not self._place(0):
            return None
        bins = [0] * len(self._order)
        for place, item in zip(self._places, self._order, strict=True):
            bins[item] = place
        return tuple(bins)

    def _place(self, item: int) -> bool:
        if item == len(self._sizes):
            return True
        size = self._sizes[item]
        if self._usable < self._left:
            return False
        first = self._places[-1] if item and self._sizes[item - 1] == size else 0
        seen: set[int] = set()
        for node in range(first, len(self._free)):
            self._steps[0] -= 1
            if self._steps[0] < 0:
                return False
            room = self._free[node]
            if room < size or room in seen:
                continue
            if node > first or not item or self._sizes[item - 1] != size:
                seen.add(room)
            self._take(node, size)
            self._places.append(node)
            if self._place(item + 1):
                return True
            self._places.pop()
            self._take(node, -size)
        return False

    def _take(self, node: int, size: int) -> None:
        """``size`` GPUs of a node; a negative size gives them back."""
        before, after = self._free[node], self._free[node] - size
        self._free[node] = after
        self._usable += (after if after >= self._sizes[-1] else 0) - (before if before >= self._sizes[-1] else 0)
        self._left -= size
