"""Placement as pure decisions: nobody overcommitted, nobody twice, important ones first, the forecast's own choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.fleets import micro, three_clusters
from fleet.forecast import forecast, placements_planned
from fleet.packing import admit
from fleet.placement import (
    Places,
    Room,
    Slot,
    left_after,
    reallocate,
    rooms_of,
    slots_of,
    spread,
    unplaceable_without,
    why_not,
)
from fleet.spec import FleetSpec, ModelSpec

CLUSTERS = ("amber", "cobalt", "jade")

rooms_drawn = st.lists(st.tuples(st.sampled_from(CLUSTERS), st.integers(0, 8)), min_size=1, max_size=6).map(
    lambda drawn: tuple(Room(cluster, f"{cluster}-n{i}", free) for i, (cluster, free) in enumerate(sorted(drawn)))
)
models_drawn = st.lists(
    st.builds(
        ModelSpec,
        name=st.uuids().map(str),
        kind=st.just("chat"),
        model_class=st.just("base"),
        weight_bytes=st.just(1),
        gpus=st.integers(1, 8),
        replicas=st.integers(1, 3),
        priority=st.integers(0, 3),
        homes=st.lists(st.sampled_from(CLUSTERS), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=6,
).map(tuple)


def check_fits(places: Places, rooms: Sequence[Room]) -> None:
    used = Counter[str]()
    for slot, room in places.items():
        if room is not None:
            used[room.node] += slot.gpus
    for room in rooms:
        assert used[room.node] <= room.free
        assert next(r for r in left_after(places.items(), rooms) if r.node == room.node).free >= 0


@given(models_drawn, rooms_drawn)
def test_no_node_is_overcommitted_and_every_slot_is_decided_once(
    models: tuple[ModelSpec, ...], rooms: tuple[Room, ...]
) -> None:
    slots = slots_of(models)
    assert len(set(slots)) == len(slots) == sum(m.replicas for m in models)
    assert len({slot.name for slot in slots}) == len(slots)
    for places in (spread(slots, rooms), reallocate(slots, rooms)):
        assert list(places) == list(slots)
        check_fits(places, rooms)


@given(models_drawn, rooms_drawn)
def test_a_slot_is_left_out_only_where_it_cannot_join_the_more_important_ones(
    models: tuple[ModelSpec, ...], rooms: tuple[Room, ...]
) -> None:
    slots = slots_of(models)
    priority = {m.name: m.priority for m in models}
    assert [priority[s.model] for s in slots] == sorted((priority[s.model] for s in slots), reverse=True)
    taken: list[Slot] = []
    for slot, room in reallocate(slots, rooms).items():
        fits = None not in admit([s.gpus for s in (*taken, slot)], [r.free for r in rooms])
        assert fits == (room is not None)
        if room is not None:
            taken.append(slot)


@given(models_drawn, rooms_drawn)
def test_slots_are_at_home_unless_home_is_full(models: tuple[ModelSpec, ...], rooms: tuple[Room, ...]) -> None:
    slots = slots_of(models)
    places = spread(slots, rooms)
    for cluster in CLUSTERS:
        here = [slot for slot in slots if slot.home == cluster]
        away = [slot for slot in here if (room := places[slot]) is None or room.cluster != cluster]
        free = [room.free for room in rooms if room.cluster == cluster]
        if here and None not in admit([slot.gpus for slot in here], free):
            assert not away


@pytest.mark.parametrize("spec", [three_clusters(), three_clusters(headroom=0), micro()])
def test_the_first_placement_is_the_planned_one(spec: FleetSpec) -> None:
    places = spread(slots_of(spec.models), rooms_of(spec))
    planned = {p.replica: (p.cluster, p.node) for p in placements_planned(spec)}
    assert {slot.name: (room.cluster, room.node) for slot, room in places.items() if room} == planned


@pytest.mark.parametrize("spec", [three_clusters(), three_clusters(headroom=0), micro()])
@pytest.mark.parametrize("victim", CLUSTERS)
def test_a_loss_ends_as_the_forecast_says(spec: FleetSpec, victim: str) -> None:
    rooms = rooms_of(spec)
    before = spread(slots_of(spec.models), rooms)
    free = left_after(before.items(), rooms)
    lost = [slot for slot, room in before.items() if room and room.cluster == victim]
    survivors = tuple(room for room in free if room.cluster != victim)
    after = reallocate(lost, survivors)
    check_fits(after, survivors)
    said = {m.model: m.replicas_placeable for m in forecast(spec, placements_planned(spec), victim).models}
    placed = Counter(slot.model for slot, room in after.items() if room)
    assert {model: placed[model] for model in said} == said
    where = {slot: room.cluster for slot, room in before.items() if room}
    unplaceable = unplaceable_without(victim, where, free)
    assert len(unplaceable) == sum(room is None for room in after.values())


def test_replicas_of_one_model_spread_over_clusters() -> None:
    rooms = tuple(Room(cluster, f"{cluster}-n1", 8) for cluster in CLUSTERS)
    places = spread(slots_of([ModelSpec("m", "chat", "base", 1, 1, 3)]), rooms)
    assert sorted(room.cluster for room in places.values() if room) == list(CLUSTERS)
    again = spread([Slot("m", 3, 1)], rooms, dict.fromkeys(places, "amber"))
    assert [room.cluster for room in again.values() if room] == ["cobalt"]


def test_the_reason_has_the_numbers() -> None:
    slot = Slot("ft-davinci", 0, 4)
    assert why_not(slot, (Room("amber", "amber-n1", 2), Room("jade", "jade-n1", 1))) == (
        "ft-davinci-1 needs 4 GPU(s) on one node; left after all that fits: amber-n1 2, jade-n1 1"
    )
    assert "no cluster answers" in why_not(slot, ())
    assert slot.surrogate(3) == "ft-davinci-1-s3"
