"""Pools of fine-tunes: names and shares, who serves which, warm caches at the start, judged as one."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from fleet import fleets
from fleet.environments.local.addresses import Addresses
from fleet.environments.local.layout import lay_out
from fleet.forecast import forecast, placements_planned
from fleet.placement import slots_of
from fleet.serving.agent import Agent
from fleet.serving.events import EventLog
from fleet.serving.routing import Replica, Routes, owners
from fleet.serving.weights import make_weights
from fleet.spec import FleetSpec, ModelSpec
from history.op import LOAD, Op
from history.reader import _by_pool, columns

REPLICAS = [("amber", "ft-1"), ("amber", "ft-2"), ("jade", "ft-3")]
POOL = ModelSpec("ft", "chat", "fine-tuned", 1000, 1, 2, 20, 0.10, homes=("cobalt", "amber"), fine_tunes=40, zipf=0.6)


def with_pool(pool: ModelSpec = POOL) -> FleetSpec:
    spec = fleets.micro()
    chat = replace(spec.models[0], share=spec.models[0].share - pool.share)
    code = replace(spec.models[1], gpus=1)
    return replace(spec, models=(chat, code, *spec.models[2:], pool))


def test_requests_ask_for_fine_tunes_by_their_popularity() -> None:
    spec = with_pool()
    assert spec.problems() == ()
    asked = {e.model: e.share for e in spec.mix_entries()}
    assert sum(asked.values()) == pytest.approx(1)
    assert sum(asked[name] for name in POOL.pool) == pytest.approx(0.10)
    assert asked["ft:001"] / asked["ft:032"] == pytest.approx(32**0.6)
    assert "ft" not in asked
    assert next(m for m in spec.model_facts() if m.name == "ft").fine_tunes == POOL.pool


def test_a_fine_tune_keeps_its_owner_when_another_replica_goes() -> None:
    names = [f"ft:{i:03d}" for i in range(400)]
    before = {name: owners(name, REPLICAS, 1)[0] for name in names}
    assert {before[n] for n in names} == set(REPLICAS)
    after = {name: owners(name, REPLICAS[1:], 1)[0] for name in names}
    assert all(after[n] == before[n] for n in names if before[n] != REPLICAS[0])


def test_copies_stand_in_different_clusters() -> None:
    for i in range(50):
        assert {cluster for cluster, _ in owners(f"ft:{i}", REPLICAS, 2)} == {"amber", "jade"}
    assert len(owners("ft:1", REPLICAS, 9)) == 3


def test_the_gateway_sends_a_fine_tune_to_its_owner_and_to_the_next_while_that_is_away() -> None:
    routes = Routes((POOL,), eject_after=2)
    made = {key: routes.ready(Replica(*key, "ft", "n", f"http://{key[1]}")) for key in REPLICAS}
    first = made[owners("ft:001", REPLICAS, 1)[0]]
    first.in_flight = 5
    assert {routes.choose("ft:001") for _ in range(4)} == {first}, "its weights are there, so its queue is worth it"
    routes.eject(first)
    second = routes.choose("ft:001")
    assert second is not None
    assert second is not first


def test_a_cluster_takes_its_share_of_requests_and_of_fine_tunes() -> None:
    pool = replace(POOL, fine_tunes=1000)
    names, routes = pool.pool, Routes((pool,), eject_after=2)
    for cluster in ("amber", "jade"):
        routes.ready(Replica(cluster, f"{cluster}-m", "m", "n", f"http://{cluster}-m"))
        routes.ready(Replica(cluster, f"{cluster}-ft", "ft", "n", f"http://{cluster}-ft"))
    routes.shares["jade"] = 0.0
    assert {r.cluster for _ in range(20) if (r := routes.choose("m"))} == {"amber"}
    routes.shares["jade"] = 0.5
    taken = [n for n in names if (r := routes.choose(n)) and r.cluster == "jade"]
    assert len(taken) == pytest.approx(250, abs=60)
    routes.shares["jade"] = 1.0
    later = {n for n in names if (r := routes.choose(n)) and r.cluster == "jade"}
    assert later > set(taken), "those that moved stay"
    routes.shares["jade"] = 0.0
    for replica in routes.replicas:
        if replica.cluster == "amber":
            routes.eject(replica)
    chosen = routes.choose("m")
    assert chosen is not None, "rather a cluster that ought to rest than no answer"


def test_every_first_replica_is_placed_before_spare_ones() -> None:
    models = (
        ModelSpec("code", "completion", "codex", 1, 2, 2, 80, spare_priority=1),
        ModelSpec("ft", "chat", "fine-tuned", 1, 2, 2, 20),
    )
    assert [slot.name for slot in slots_of(models)] == ["code-1", "ft-1", "ft-2", "code-2"]
    spec = fleets.micro()
    code = replace(spec.model("code"), replicas=2, gpus=1, spare_priority=1)
    tight = replace(spec, models=tuple(code if m.name == "code" else m for m in spec.models))
    lost = forecast(tight, placements_planned(tight), "cobalt")
    rows = {row.model: row for row in lost.models}
    assert (rows["code"].replicas_lost, rows["embed"].fits) == (2, True)


def test_nodes_start_with_the_fine_tunes_of_their_replicas(tmp_path: Path) -> None:
    spec = with_pool()
    layout = lay_out(spec, Addresses(0, None), tmp_path, tmp_path, "token", gateway_host="", gateway_port=0)
    seeds = {n.name: n.agent.seeds for c in layout.clusters.values() for n in c.nodes}
    assert sorted(seeds["cobalt-n1"] + seeds["amber-n1"]) == sorted(POOL.pool)
    assert seeds["jade-n1"] == ()
    assert seeds["cobalt-n1"].index(max(seeds["cobalt-n1"])) == 0, "the least popular is the first to go"
    assert POOL in layout.gateway.models
    cold = layout.clusters["cobalt"].without_seeds()
    assert [n.agent.seeds for n in cold.nodes] == [()]


def test_an_agent_answers_seeded_models_from_its_own_disk(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_weights(tmp_path / "weights", name, 1000, 1, 400)
    cluster = lay_out(
        with_pool(), Addresses(0, None), tmp_path, tmp_path, "token", gateway_host="", gateway_port=0
    ).clusters["jade"]
    config = dataclasses.replace(
        cluster.nodes[0].agent, cache_bytes=2000, seeds=("a", "b", "c"), seed_root=tmp_path / "weights", store_urls=()
    )

    async def fetch() -> tuple[str, int]:
        async with aiohttp.ClientSession() as session:
            agent = Agent(config, session, CollectorRegistry(), EventLog(), logging.Logger("agent"))
            fetched = await agent.fetch("c")
            return fetched.source, agent.cache.used_bytes

    assert asyncio.run(fetch()) == ("local", 2000)
    assert len(list(config.cache_dir.iterdir())) == 6, "what did not fit left the disk too"


def test_ops_of_fine_tunes_are_their_pools(tmp_path: Path) -> None:
    ops = [
        Op(source=LOAD, process="l", kind="chat", t_intended=i, outcome="ok", seq=i, model=name)
        for i, name in enumerate(("ft:001", "chat", "ft:002"))
    ]
    facts = with_pool().model_facts()

    class Header:
        class fleet:
            models = facts

    load = _by_pool(Header, columns(ops).requests)  # type: ignore[arg-type]
    assert [load.model[i] for i in range(3)] == ["ft", "chat", "ft"]
    assert np.array_equal(load.model.where("ft"), [True, False, True])
