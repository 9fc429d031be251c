"""The allocator against stub clusters: detects, decides by priority, places once, comes home without a dip."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fleet.serving import allocator
from fleet.serving.controller import READY_POLL_S
from tests.fleet.serving.allocator_stage import HOME, MODELS, model


def test_everything_is_placed_at_home_and_headroom_is_known(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            assert s.where() == HOME
            state = await s.it.get_json(f"{s.url}/state")
            assert state["placed"] is True
            assert state["clusters"] == dict.fromkeys(("amber", "cobalt", "jade"), "up")
            assert {slot["slot"]: slot["cluster"] for slot in state["slots"]}["big-1"] == "cobalt"
            assert state["unplaceable_without"] == {"amber": [], "cobalt": [], "jade": []}
            assert await s.it.metric(s.url, 'allocator_replicas{state="placed"}') == 5

    asyncio.run(go())


def test_a_refused_cluster_is_lost_after_three_polls_and_its_models_move_by_priority(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.lose("cobalt")
            start = time.monotonic()
            await s.settled(big=1, chat=3, code=1)
            assert time.monotonic() - start < 1.0
            detected = s.events("detected")
            assert [(e.cluster, e.detail["failures"]) for e in detected] == [("cobalt", 3)]
            assert "cannot connect" in detected[0].detail["seen"]
            assert 0 < detected[0].t_emitted - detected[0].detail["t_first_failure"] < 1e9
            decided = s.events("decided")
            assert [e.model for e in decided] == ["chat", "code", "big"]
            assert all(e.detail["from"] == ["cobalt"] for e in decided)
            to = {e.model: e.detail["to"] for e in decided}
            assert (to["code"], to["big"]) == (s.where()["code"], s.where()["big"])
            assert sorted(["amber", "jade", *to["chat"]]) == s.where()["chat"]
            assert detected[0].t_emitted < decided[0].t_emitted
            assert s.events("unplaceable") == []
            names = [n for c in s.clusters.values() for n in c.replicas]
            assert len(names) == len(set(names)) == 5

    asyncio.run(go())


def test_fewer_failed_polls_than_the_limit_are_no_loss(stage: Any) -> None:
    async def go() -> None:
        async with stage(detect_failures=50) as s:
            await s.clusters["cobalt"].power_off()
            replicas = dict(s.clusters["cobalt"].replicas)
            await asyncio.sleep(0.1)
            await s.clusters["cobalt"].power_on()
            s.clusters["cobalt"].replicas.update(replicas)
            await asyncio.sleep(0.1)
            assert s.api.events.events == ()

    asyncio.run(go())


def test_what_finds_no_room_is_unplaceable_with_the_numbers_until_its_home_is_back(stage: Any) -> None:
    async def go() -> None:
        async with stage(gpus=7, models=(*MODELS, model("pad", 3, 2, 200, "amber", "jade"))) as s:
            for cluster in s.clusters.values():
                cluster.gpus_of["pad"] = 3
            assert s.where()["pad"] == ["amber", "jade"]
            for name in ("amber", "jade"):
                s.clusters[name].nodes[f"{name}-n1"] = 6  # leaves 2 and 2: chat and code fit, big does not
                for row in s.clusters[name].replicas.values():
                    row["gpus"] = {"pad": 3, "chat": 1}[row["model"]]
            await s.lose("cobalt")
            await s.settled(chat=3, code=1)
            unplaceable = s.events("unplaceable")
            assert [e.model for e in unplaceable] == ["big"]
            assert unplaceable[0].detail["reason"].startswith("big-1 needs 4 GPU(s) on one node; left after all that")
            assert [e.model for e in s.events("decided")] == ["chat", "code"]
            assert list((await s.it.get_json(f"{s.url}/state"))["unplaceable"]) == ["big-1"]
            await s.clusters["cobalt"].power_on()
            await s.it.until(lambda: len(s.events("failback")) == 3)
            await s.settled(big=1, chat=3, code=1)
            assert {m: c for m, c in s.where().items() if m != "pad"} == HOME
            assert (await s.it.get_json(f"{s.url}/state"))["unplaceable"] == {}

    asyncio.run(go())


def test_failback_waits_for_ready_and_for_the_gateway_before_it_ends_a_surrogate(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            cobalt = s.clusters["cobalt"]
            cobalt.auto_ready, s.gateway.blind = False, True
            await cobalt.power_on()
            await s.it.until(lambda: len(cobalt.replicas) == 3)
            assert [e.cluster for e in s.events("returned")] == ["cobalt"]
            listed, began = cobalt.listed, time.monotonic()
            await asyncio.sleep(0.3)
            looks = (time.monotonic() - began) / READY_POLL_S
            assert cobalt.listed - listed < 1.5 * looks, (
                "three that wait for their homes ask once each look, not thrice"
            )
            assert len(s.where()["big"]) == 2, "not ready at home: the surrogate serves on"
            for row in cobalt.replicas.values():
                row["phase"] = "Ready"
            await asyncio.sleep(0.15)
            assert len(s.where()["big"]) == 2, "the gateway does not see it yet"
            assert s.events("failback") == []
            s.gateway.blind = False
            await s.it.until(lambda: len(s.events("failback")) == 3)
            await s.it.until(lambda: s.where() == HOME)
            deleted = [(c.name, name) for c in s.clusters.values() for what, name in c.calls if what == "delete"]
            assert sorted(s.gateway.drained) == sorted(deleted)
            assert len(deleted) == 3
            assert {e.model for e in s.events("failback")} == {"big", "chat", "code"}
            assert all(e.cluster == "cobalt" for e in s.events("failback"))

    asyncio.run(go())


def test_a_home_replica_that_fails_and_comes_up_later_is_home_then_and_nothing_runs_twice(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            cobalt, stand_in = s.clusters["cobalt"], s.where()["big"][0]
            cobalt.auto_ready = False
            await cobalt.power_on()
            await s.it.until(lambda: len(cobalt.replicas) == 3)
            for row in cobalt.replicas.values():  # as Kubernetes says of what it will start again in ten seconds
                row["phase"], row["reason"] = "Failed", "CrashLoopBackOff"
            await asyncio.sleep(0.2)
            assert s.where()["big"] == sorted(["cobalt", stand_in]), "the surrogate serves on"
            await s.lose(stand_in)
            await s.it.until(lambda: len([e for e in s.events("decided") if e.model == "big"]) == 2)
            for row in cobalt.replicas.values():
                row["phase"], row["reason"] = "Ready", ""
            await s.it.until(lambda: s.where()["big"] == ["cobalt"])
            await s.it.until(lambda: s.where()["code"] == ["cobalt"])
            await s.it.until(lambda: {e.model for e in s.events("failback")} >= {"big", "code"})

    asyncio.run(go())


def test_a_home_that_is_lost_again_leaves_the_surrogates(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            before = s.where()
            cobalt = s.clusters["cobalt"]
            cobalt.auto_ready = False
            await cobalt.power_on()
            await s.it.until(lambda: len(cobalt.replicas) == 3)
            await cobalt.power_off()
            cobalt.replicas.clear()
            await s.it.until(lambda: len(s.events("detected")) == 2)
            await asyncio.sleep(0.1)
            assert s.where() == before
            assert len(s.events("decided")) == 3, "nobody was displaced the second time"
            assert s.events("failback") == []

    asyncio.run(go())


def test_a_second_cluster_lost_on_the_way_home_does_not_place_twice(stage: Any) -> None:
    async def go() -> None:
        async with stage(gpus=16) as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            host = s.where()["big"][0]
            cobalt = s.clusters["cobalt"]
            cobalt.auto_ready = False
            await cobalt.power_on()
            await s.it.until(lambda: len(cobalt.replicas) == 3)
            await s.lose(host)
            await asyncio.sleep(0.1)
            assert s.where()["big"] == ["cobalt"], "it is on its way home; one place is enough"
            for row in cobalt.replicas.values():
                row["phase"] = "Ready"
            await s.it.until(lambda: {e.model for e in s.events("failback")} >= {"big", "code"})
            assert s.where()["big"] == ["cobalt"]
            await s.settled(chat=3)

    asyncio.run(go())


def test_manual_reaction_moves_nothing_until_it_is_decided(stage: Any) -> None:
    async def go() -> None:
        async with stage(reaction="manual") as s:
            await s.lose("cobalt")
            await asyncio.sleep(0.1)
            assert s.where() == {"chat": ["amber", "jade"]}
            assert s.events("decided") == []
            async with s.it.session.post(f"{s.url}/decide") as response:
                assert await response.json() == {"decided": ["chat", "code", "big"]}
            await s.settled(big=1, chat=3, code=1)

    asyncio.run(go())


def test_a_decision_takes_as_long_as_it_is_told_to(stage: Any) -> None:
    async def go() -> None:
        async with stage(decision_delay_s=0.3) as s:
            await s.lose("cobalt")
            await s.it.until(lambda: s.events("decided"))
            assert s.events("decided")[0].t_emitted - s.events("detected")[0].t_emitted >= 0.3e9

    asyncio.run(go())


def test_without_failback_models_stay_where_they_went(stage: Any) -> None:
    async def go() -> None:
        async with stage(failback=False) as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            before = s.where()
            await s.clusters["cobalt"].power_on()
            await s.it.until(lambda: s.events("returned"))
            await asyncio.sleep(0.1)
            assert s.where() == before

    asyncio.run(go())


def test_a_thawed_cluster_keeps_its_replicas_and_the_surrogates_end(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            cobalt = s.clusters["cobalt"]
            frozen = dict(cobalt.replicas)
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            stale = {"name": "chat-1-s9", "model": "chat", "gpus": 1, "node": "cobalt-n1", "phase": "Ready"}
            other = stale | {"name": "not-ours"}
            cobalt._fresh = lambda: None
            cobalt.events = type(cobalt.events)()
            cobalt.replicas = frozen | {"chat-1-s9": stale, "not-ours": other}
            await cobalt.power_on()
            await s.it.until(lambda: len(s.events("failback")) == 3)
            await s.it.until(lambda: s.where() == HOME | {"chat": ["amber", "cobalt", "cobalt", "jade"]})
            assert "chat-1-s9" not in cobalt.replicas
            assert "not-ours" in cobalt.replicas, "what we did not place is not ours to end"

    asyncio.run(go())


def test_a_cluster_that_restarted_unnoticed_is_filled_again(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            s.clusters["cobalt"].replicas.clear()
            await s.settled(big=1, chat=3, code=1)
            assert s.where() == HOME, "it came back empty with all its GPUs: nothing has to move"
            assert s.events("detected") == []

    asyncio.run(go())


def test_an_allocator_that_restarts_takes_over_what_runs(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            puts = sum(len(c.calls) for c in s.clusters.values())
            await s.api.controller.close()
            await s.clusters["cobalt"].power_on()
            config = s.api._config
            app, api = allocator.build(config)
            await s.it.url(app)
            await s.it.until(lambda: api.controller.placed)
            assert sum(len(c.calls) for c in s.clusters.values()) == puts, "nothing was placed a second time"

    asyncio.run(go())
