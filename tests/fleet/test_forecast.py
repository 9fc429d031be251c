"""Forecast: who fits, by priority and exactly; seconds by bytes and bandwidth."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import fleets, packing
from fleet import forecast as forecasts
from fleet.forecast import Losses, forecast, placements_planned
from fleet.packing import divide_each_other
from fleet.reload import Flow, fair_finish_s
from fleet.spec import ClusterSpec, FleetSpec, LinkSpec, ModelSpec, NodeSpec, StoreSpec, Switches
from history.errors import UsageError
from history.records import Placement

MIB = 1024 * 1024


def two_stores(link: float = 0.0) -> FleetSpec:
    stores = (StoreSpec("a", 100.0, "amber"), StoreSpec("out", 50.0))
    return replace(fleets.micro(), stores=stores, links=(LinkSpec("a", link),) if link else ())


@pytest.mark.parametrize("victim", fleets.CLUSTERS)
def test_with_headroom_whatever_one_cluster_loses_fits(victim: str) -> None:
    spec = fleets.three_clusters(headroom=1)
    found = forecast(spec, placements_planned(spec), victim)
    assert found.fits
    assert 0 < found.gpus_needed <= found.gpus_free


def test_without_headroom_cobalt_cannot_be_replaced() -> None:
    spec = fleets.three_clusters(headroom=0)
    found = forecast(spec, placements_planned(spec), "cobalt")
    assert not found.fits
    out = [row for row in found.models if not row.fits]
    assert [row.model for row in out] == ["ft-davinci"]
    assert "needs 4 GPU(s) on one node" in out[0].reason
    assert "jade-n2 2" in out[0].reason
    assert out[0].reload_s is None
    lost_and_fits = [row for row in found.models if row.fits and row.replicas_lost]
    assert len(lost_and_fits) >= 4
    assert (found.gpus_needed, found.gpus_free) == (14, 12)


def test_planned_placements_follow_homes_and_gpus() -> None:
    spec = fleets.three_clusters()
    planned = placements_planned(spec)
    assert len(planned) == sum(model.replicas for model in spec.models)
    gpus = {model.name: model.gpus for model in spec.models}
    for cluster in spec.clusters:
        for node in cluster.nodes:
            assert sum(gpus[p.model] for p in planned if p.node == node.name) <= node.gpus
    for model in spec.models:
        assert tuple(p.cluster for p in planned if p.model == model.name) == model.homes[: model.replicas]


def test_models_without_a_home_are_spread() -> None:
    spec = replace(fleets.micro(), models=(ModelSpec("chat", "chat", "base", MIB, 1, 3, share=1.0),))
    assert {p.cluster for p in placements_planned(spec)} == set(fleets.CLUSTERS)


def test_the_victim_must_be_a_cluster_and_models_must_be_known() -> None:
    spec = fleets.micro()
    with pytest.raises(UsageError, match="'ruby'"):
        forecast(spec, (), "ruby")
    with pytest.raises(UsageError, match="gpt"):
        forecast(spec, (Placement("gpt", "jade", "jade-n1", "gpt-1"),), "jade")


def test_priority_decides_who_gets_the_last_gpus() -> None:
    nodes = tuple(ClusterSpec(name, (NodeSpec(f"{name}-n1", 3),)) for name in ("amber", "cobalt"))
    low = ModelSpec("low", "chat", "base", MIB, 2, 1, priority=1, share=0.5, homes=("cobalt",))
    high = ModelSpec("high", "chat", "base", MIB, 1, 1, priority=9, share=0.5, homes=("cobalt",))
    keep = ModelSpec("keep", "chat", "base", MIB, 1, 1, homes=("amber",))
    spec = FleetSpec("two", nodes, (low, high, keep), (StoreSpec("s", 1e6),))
    spec = replace(spec, clusters=(ClusterSpec("amber", (NodeSpec("amber-n1", 2),)), nodes[1]))
    rows = {row.model: row for row in forecast(spec, placements_planned(spec), "cobalt").models}
    assert rows["high"].fits
    assert not rows["low"].fits
    assert rows["keep"].replicas_lost == 0


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(0, 3)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_what_is_said_to_fit_has_room(raw: list[tuple[int, int, int]]) -> None:
    models = tuple(
        ModelSpec(f"m{i}", "chat", "base", MIB, gpus, replicas, priority, homes=("cobalt",))
        for i, (gpus, replicas, priority) in enumerate(raw)
    )
    clusters = (
        ClusterSpec("amber", (NodeSpec("amber-n1", 3), NodeSpec("amber-n2", 2))),
        ClusterSpec("cobalt", (NodeSpec("cobalt-n1", 99),)),
    )
    spec = FleetSpec("two", clusters, models, (StoreSpec("s", 1e6),))
    found = forecast(spec, placements_planned(spec), "cobalt")
    gpus = {model.name: model.gpus for model in models}
    assert sum(row.replicas_placeable * gpus[row.model] for row in found.models) <= found.gpus_free == 5
    assert all(row.fits == (row.replicas_placeable == row.replicas_lost) for row in found.models)
    assert found.fits == all(row.fits for row in found.models)


def test_seconds_are_bytes_over_bandwidth() -> None:
    spec = two_stores()
    assert fair_finish_s(spec, [Flow("m", "amber", "a", 200)]) == {"m": pytest.approx(2.0)}
    equal = [Flow("m", "amber", "a", 100), Flow("m", "jade", "a", 100), Flow("n", "jade", "a", 100)]
    assert fair_finish_s(spec, equal)["n"] == pytest.approx(3.0)


def test_a_short_flow_ends_before_a_long_one_and_leaves_it_the_bandwidth() -> None:
    done = fair_finish_s(two_stores(), [Flow("short", "amber", "a", 50), Flow("long", "amber", "a", 150)])
    assert done == {"short": pytest.approx(1.0), "long": pytest.approx(2.0)}


def test_the_cross_cluster_link_is_narrower_and_leaves_the_rest_to_others() -> None:
    done = fair_finish_s(two_stores(link=10.0), [Flow("far", "jade", "a", 10), Flow("near", "amber", "a", 90)])
    assert done == {"far": pytest.approx(1.0), "near": pytest.approx(1.0)}


def test_stores_do_not_share_their_egress() -> None:
    done = fair_finish_s(two_stores(), [Flow("m", "amber", "a", 100), Flow("n", "amber", "out", 50)])
    assert done == {"m": pytest.approx(1.0), "n": pytest.approx(1.0)}


def test_reload_is_at_least_all_bytes_over_egress_and_peers_make_it_free() -> None:
    spec = fleets.three_clusters()
    planned = placements_planned(spec)
    rows = forecast(spec, planned, "cobalt").models
    total = sum(row.reload_bytes for row in rows)
    assert max(row.reload_s or 0 for row in rows) == pytest.approx(total / spec.stores[0].egress_bytes_s)
    peers = fleets.three_clusters(switches=Switches(peer_fetch=True))
    with_peers = {row.model: row for row in forecast(peers, planned, "cobalt").models}
    assert with_peers["chat-large"].reload_bytes == 0
    assert with_peers["ft-davinci"].reload_bytes == 8 * MIB


def _drawn(raw: list[tuple[int, int, int]], nodes: list[list[int]]) -> FleetSpec:
    names = [f"c{i}" for i in range(len(nodes))]
    clusters = tuple(
        ClusterSpec(name, tuple(NodeSpec(f"{name}-n{n}", gpus) for n, gpus in enumerate(sizes)))
        for name, sizes in zip(names, nodes, strict=True)
    )
    models = tuple(
        ModelSpec(f"m{i}", "chat", "base", MIB, gpus, replicas, priority, homes=(names[i % len(names)],))
        for i, (gpus, replicas, priority) in enumerate(raw)
    )
    return FleetSpec("drawn", clusters, models, (StoreSpec("s", 1e6),))


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2), st.integers(0, 3)), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=2), min_size=3, max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_singles_and_pairs_agree_with_trying_everything(
    raw: list[tuple[int, int, int]], nodes: list[list[int]]
) -> None:
    spec = _drawn(raw, nodes)
    placements = placements_planned(spec)
    gpus = {model.name: model.gpus for model in spec.models}
    used = {p.node: sum(gpus[q.model] for q in placements if q.node == p.node) for p in placements}
    losses = Losses(spec, placements)

    def fits(*victims: str) -> bool:
        needs = [gpus[p.model] for p in placements if p.cluster in victims]
        rooms = [node.gpus - used.get(node.name, 0) for c in spec.clusters if c.name not in victims for node in c.nodes]
        return any(
            all(sum(n for n, at in zip(needs, places, strict=True) if at == r) <= room for r, room in enumerate(rooms))
            for places in product(range(len(rooms)), repeat=len(needs))
        )

    for one in losses.all():
        assert one.fits == fits(one.victim)
        assert all(row.replicas_lost and len(row.nodes) == row.replicas_placeable for row in one.models)
    for pair in losses.pairs():
        truth = fits(*pair.clusters)
        assert pair.fits in (truth, None)
        assert truth or pair.fits is not True
        assert not (truth and pair.short_gpus > 0)
        if divide_each_other(gpus.values()):
            assert pair.fits is not None


def test_of_two_that_go_neither_order_is_forgotten() -> None:
    """1 GPU first goes where it leaves least, and then only one of two 2-GPU replicas finds a node; at once all fit."""
    spec = _drawn([(1, 1, 0), (2, 2, 0)], [[1], [2, 2], [3, 2]])
    placements = placements_planned(spec)
    assert Losses(spec, placements).one("c0", "c1").fits
    found = forecast(spec, placements, "c0", "c1")
    large = found.models[1]
    assert (large.fits, large.replicas_placeable, large.replicas_placeable_at_most, large.undecided) == (
        False,
        1,
        2,
        True,
    )
    assert len(large.nodes) == 1
    assert "depends on when each cluster goes" in large.reason
    assert forecast(spec, placements, "c1", "c0").fits
    assert found.clusters == ("c0", "c1")


def test_a_bound_is_said_as_a_bound() -> None:
    many = [(5 if i % 2 else 3, 1, 0) for i in range(120)]
    spec = _drawn(many, [[600], [8] * 55 + [7] * 3])
    spec = replace(spec, models=tuple(replace(m, homes=("c0",)) for m in spec.models))
    found = forecast(spec, placements_planned(spec), "c0")
    assert not found.fits
    unsure = [row for row in found.models if row.replicas_placeable_at_most is not None]
    assert unsure
    assert all(row.replicas_placeable < (row.replicas_placeable_at_most or 0) <= row.replicas_lost for row in unsure)
    assert "so both are bounds" in unsure[0].reason


def test_losses_of_every_cluster_are_those_of_one_at_a_time() -> None:
    spec = fleets.three_clusters(headroom=0)
    planned = placements_planned(spec)
    for one in Losses(spec, planned).all():
        alone = forecast(spec, planned, one.victim)
        assert one.models == tuple(row for row in alone.models if row.replicas_lost)
        assert (one.gpus_needed, one.gpus_free) == (alone.gpus_needed, alone.gpus_free)


def test_all_losses_of_a_fleet_share_their_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int | None] = []
    made = packing.admit_bounds

    def counting(needs: Any, free: Any, most: int | None = None) -> Any:
        limits.append(most)
        return made(needs, free, most)

    monkeypatch.setattr(forecasts, "admit_bounds", counting)
    spec = _drawn([(3, 1, 0)], [[3]] * 50)
    assert len(list(Losses(spec, placements_planned(spec)).all())) == 50
    assert sum(most or 0 for most in limits) <= forecasts.SEARCHED


def test_the_benchmark_of_large_fleets_runs() -> None:
    from benchmarks.forecast_scale import main

    done = CliRunner().invoke(main, ["--clusters", "8", "--gpus", "640", "--models", "80", "--fill", "0.85"])
    assert done.exit_code == 0, done.output
    assert "single {'yes': 8}" in done.output
    assert "pairs {'no': 28}" in done.output
