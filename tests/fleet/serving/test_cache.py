"""The cache index: never over its budget, never drops what is in use, least recently used first."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from fleet.serving.cache import CacheIndex
from fleet.serving.weights import WeightObject

BUDGET = 100
OBJECTS = tuple(
    WeightObject(name, size) for name, size in zip("abcdefgh", (5, 10, 20, 30, 40, 60, 90, 100), strict=True)
)


def arrive(index: CacheIndex, objects: Sequence[WeightObject]) -> None:
    for item in objects:
        index.arrived(item.sha256)


class CacheMachine(RuleBasedStateMachine):
    """Any order of admissions, arrivals, losses, uses and releases."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.index = CacheIndex(BUDGET)
        self.pins: dict[str, int] = {}
        self.present: set[str] = set()

    @rule(target=leases, wanted=st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=4))
    def admit(self, wanted: list[WeightObject]) -> object:
        before = self.index.used_bytes
        admission = self.index.admit(wanted)
        names = {item.sha256 for item in wanted}
        if admission is None:
            assert self.index.used_bytes == before
            sizes = {item.sha256: item.bytes for item in OBJECTS}
            busy = {name for name, pins in self.pins.items() if pins} | names
            assert sum(sizes[name] for name in busy) > BUDGET, "it refused what would have fitted"
            return multiple()
        for name in admission.evicted:
            assert not self.pins.get(name)
            assert name not in names
            self.present.discard(name)
        assert {item.sha256 for item in admission.present} == names & self.present
        for name in names:
            self.pins[name] = self.pins.get(name, 0) + 1
        return tuple(sorted(names))

    @rule(lease=leases)
    def arrived(self, lease: tuple[str, ...]) -> None:
        for name in lease:
            if self.pins.get(name):
                self.index.arrived(name)
                self.present.add(name)

    @rule(lease=consumes(leases))
    def release(self, lease: tuple[str, ...]) -> None:
        self.index.release(lease)
        for name in lease:
            self.pins[name] -= 1

    @rule(item=st.sampled_from(OBJECTS))
    def lost(self, item: WeightObject) -> None:
        self.index.lost(item.sha256)
        self.present.discard(item.sha256)

    @invariant()
    def within_budget(self) -> None:
        assert 0 <= self.index.used_bytes <= BUDGET

    @invariant()
    def knows_what_is_here(self) -> None:
        assert {item.sha256 for item in OBJECTS if item.sha256 in self.index} == self.present

    @invariant()
    def space_is_that_of_what_is_pinned_or_present(self) -> None:
        held = {name for name, pins in self.pins.items() if pins} | self.present
        assert self.index.used_bytes == sum(item.bytes for item in OBJECTS if item.sha256 in held)


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestCacheMachine = CacheMachine.TestCase


def test_the_least_recently_used_goes_first() -> None:
    index = CacheIndex(60)
    a, b, c, d = (WeightObject(name, 20) for name in "abcd")
    for item in (a, b, c):
        index.admit((item,))
        arrive(index, (item,))
        index.release((item.sha256,))
    assert index.touch("a")  # a peer read it
    admission = index.admit((d,))
    assert admission is not None
    assert admission.evicted == ("b",)
    assert not index.touch("b")


def test_an_object_in_use_stays_however_old_it_is() -> None:
    index = CacheIndex(40)
    index.admit((WeightObject("read", 20),))
    arrive(index, (WeightObject("read", 20),))
    index.admit((WeightObject("idle", 20),))
    arrive(index, (WeightObject("idle", 20),))
    index.release(("idle",))
    admission = index.admit((WeightObject("new", 20),))
    assert admission is not None
    assert admission.evicted == ("idle",)
    assert index.admit((WeightObject("another", 20),)) is None


def test_what_never_arrived_gives_its_space_back() -> None:
    index = CacheIndex(40)
    index.admit((WeightObject("x", 40),))
    assert index.admit((WeightObject("y", 10),)) is None
    index.release(("x",))
    assert index.used_bytes == 0
    assert index.admit((WeightObject("y", 10),)) is not None
