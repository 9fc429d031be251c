"""The allocator's audit: what nobody answered, what nobody wants, what was only slow, what found no room."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.fleet.serving.allocator_stage import HOME


@pytest.mark.parametrize("late_s", [(0.0, 1.3), (1.6, 0.0)], ids=["placed, answered late", "placed late"])
def test_what_was_placed_and_not_answered_runs_once(stage: Any, late_s: tuple[float, float]) -> None:
    async def go() -> None:
        async with stage(gpus=24) as s:
            survivors = [s.clusters[name] for name in ("amber", "jade")]
            for cluster in survivors:
                cluster.late_s = late_s
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            running = s.where()
            await asyncio.sleep(3.5)  # longer than it is waited for what nobody answered, and one audit more
            assert s.where() == running
            wanted = {(at.cluster, at.replica) for at in s.api.controller.at.values() if at}
            assert wanted == {(c.name, name) for c in survivors for name in c.replicas}
            assert s.api.controller.unplaceable == {}
            assert len(s.events("decided")) == 3, "what was on its way was not placed again"

    asyncio.run(go())


def test_a_place_that_never_came_about_is_sought_again_by_people_s_decision_too(stage: Any) -> None:
    async def go() -> None:
        async with stage(reaction="manual") as s:
            await s.lose("cobalt")
            for name in ("amber", "jade"):
                s.clusters[name].deaf = 3
            await s.api.controller.decide()
            assert s.where() == {"chat": ["amber", "jade"]}, "nobody took anything"
            await s.settled(big=1, chat=3, code=1)

    asyncio.run(go())


def test_a_surrogate_whose_end_was_refused_ends_with_the_next_audit(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            await s.lose("cobalt")
            await s.settled(big=1, chat=3, code=1)
            for name in ("amber", "jade"):
                s.clusters[name].refuses = 2
            await s.clusters["cobalt"].power_on()
            await s.it.until(lambda: len(s.events("failback")) == 3)
            await s.it.until(lambda: s.where() == HOME)

    asyncio.run(go())


def test_what_runs_in_a_cluster_that_was_only_slow_is_taken_on_where_it_is(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            amber, jade = s.clusters["amber"], s.clusters["jade"]
            amber.nodes["amber-n1"] = 1
            await s.lose("cobalt")
            await s.it.until(
                lambda: s.where() == {"big": ["jade"], "chat": ["amber", "jade", "jade"], "code": ["jade"]}
            )
            before = sorted(jade.replicas)
            jade.slow = True
            await s.it.until(lambda: len(s.api.controller.unplaceable) == 4)
            jade.slow = False
            await s.it.until(lambda: not s.api.controller.unplaceable)
            await s.it.until(lambda: any(e.cluster == "jade" for e in s.events("failback")))
            await asyncio.sleep(0.3)
            assert sorted(jade.replicas) == before, "what ran there runs on, once"
            assert not any(kind == "delete" for kind, _ in jade.calls)

    asyncio.run(go())


def test_what_failed_in_a_cluster_that_was_only_slow_is_placed_anew(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            amber, jade = s.clusters["amber"], s.clusters["jade"]
            amber.nodes["amber-n1"] = 1
            await s.lose("cobalt")
            await s.it.until(lambda: s.where().get("big") == ["jade"])
            (failed,) = [row for row in jade.replicas.values() if row["model"] == "big"]
            jade.slow = True
            await s.it.until(lambda: len(s.api.controller.unplaceable) == 4)
            failed["phase"] = "Failed"
            jade.slow = False
            await s.it.until(lambda: failed["name"] not in jade.replicas)
            await s.it.until(lambda: s.where().get("big") == ["jade"])

    asyncio.run(go())


def test_trying_again_decides_nothing_that_is_still_to_be_decided(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            amber, jade = s.clusters["amber"], s.clusters["jade"]
            amber.nodes["amber-n1"] = jade.nodes["jade-n1"] = 3
            await s.lose("cobalt")
            await s.it.until(lambda: [slot.model for slot in s.api.controller.unplaceable] == ["big"])
            await s.settled(chat=3, code=1)
            controller = s.api.controller
            controller._switches = replace(controller._switches, decision_delay_s=60.0)
            gone = [row["model"] for row in jade.replicas.values()]
            await s.lose("jade")
            amber.nodes["amber-n1"] += 12
            await s.it.until(lambda: s.where().get("big") == ["amber"])
            await asyncio.sleep(1.2)
            assert not controller.unplaceable
            assert len(s.where()["chat"]) == 3 - gone.count("chat"), "jade's are not decided on yet"

    asyncio.run(go())


def test_a_home_whose_end_was_not_answered_does_not_run_on_beside_its_surrogate(stage: Any) -> None:
    async def go() -> None:
        async with stage(failback=False) as s:
            cobalt = s.clusters["cobalt"]
            cobalt.slow = True
            await s.it.until(lambda: s.events("detected"))
            await s.it.until(lambda: s.where()["big"] != ["cobalt"])
            await s.settled(big=2, chat=4, code=2)
            cobalt.refuses = 3
            cobalt.slow = False
            await s.settled(big=1, chat=3, code=1)
            assert cobalt.replicas == {}

    asyncio.run(go())


def test_the_only_one_that_serves_stays_until_its_home_is_ready(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            amber, cobalt, jade = (s.clusters[name] for name in ("amber", "cobalt", "jade"))
            amber.nodes["amber-n1"] = 1
            await s.lose("cobalt")
            await s.it.until(lambda: s.where().get("big") == ["jade"])
            jade.slow = True
            await s.it.until(lambda: len(s.api.controller.unplaceable) == 4)
            cobalt.auto_ready = False
            await cobalt.power_on()
            await s.it.until(lambda: s.where().get("big") == ["cobalt", "jade"])
            jade.slow = False
            await s.it.until(lambda: any(e.cluster == "jade" for e in s.events("returned")))
            await asyncio.sleep(0.3)
            assert s.where()["big"] == ["cobalt", "jade"]
            for row in cobalt.replicas.values():
                row["phase"] = "Ready"
            await s.it.until(lambda: s.where() == HOME)

    asyncio.run(go())


def test_a_cluster_that_people_hold_is_left_alone(stage: Any) -> None:
    async def go() -> None:
        async with stage(decision_delay_s=60.0) as s:
            cobalt = s.clusters["cobalt"]
            s.api.controller.held.add("cobalt")
            await s.lose("cobalt")
            cobalt.calls.clear()
            await cobalt.power_on()
            await asyncio.sleep(1.3)
            assert cobalt.calls == []
            assert s.events("decided") == []

    asyncio.run(go())


def test_what_found_no_room_finds_it_as_soon_as_there_is_some(stage: Any) -> None:
    async def go() -> None:
        async with stage() as s:
            amber, jade = s.clusters["amber"], s.clusters["jade"]
            amber.nodes["amber-n1"] = jade.nodes["jade-n1"] = 3
            await s.lose("cobalt")
            await s.settled(chat=3, code=1)
            await s.it.until(lambda: [slot.model for slot in s.api.controller.unplaceable] == ["big"])
            amber.nodes["amber-n1"] += 4  # others ended: no cluster came or went
            await s.settled(big=1, chat=3, code=1)
            assert not s.api.controller.unplaceable

    asyncio.run(go())
