"""The allocator against stub clusters: detects, decides by priority, places once, comes home without a dip."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from fleet.serving import allocator
from fleet.serving.config import AllocatorConfig
from fleet.serving.events import Event
from fleet.serving.serve import token_guard
from fleet.spec import ModelSpec, Switches

TOKEN = "token-of-this-run"


def model(name: str, gpus: int, replicas: int, priority: int, *homes: str) -> ModelSpec:
    return ModelSpec(name, "chat", "base", 1, gpus, replicas, priority, homes=homes)


MODELS = (
    model("big", 4, 1, 20, "cobalt"),
    model("chat", 1, 3, 100, "amber", "cobalt", "jade"),
    model("code", 2, 1, 80, "cobalt"),
)


class StubGateway:
    """Routes to what it is told to, and records drains."""

    def __init__(self) -> None:
        self.blind = False
        self.clusters: list[Any] = []
        self.drained: list[tuple[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[token_guard(TOKEN)])
        app.router.add_get("/state", self.state)
        app.router.add_post("/drain", self.drain)
        return app

    async def state(self, _: web.Request) -> web.Response:
        rows = [
            {"cluster": c.name, "replica": name, "routable": row["phase"] == "Ready" and not self.blind}
            for c in self.clusters
            for name, row in c.replicas.items()
        ]
        return web.json_response({"replicas": rows})

    async def drain(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.drained.append((body["cluster"], body["replica"]))
        return web.json_response({"drained": True, "in_flight": 0})


class Stage:
    """An allocator over three stub clusters with ``gpus`` on each one's only node."""

    def __init__(self, it: Any, control_plane: Any, gpus: int) -> None:
        self.it = it
        names = ("amber", "cobalt", "jade")
        self.clusters = {name: control_plane(it, name, {f"{name}-n1": gpus}) for name in names}
        self.gateway = StubGateway()
        self.gateway.clusters = list(self.clusters.values())
        self.api: allocator.AllocatorApi
        self.url = ""

    async def start(self, **changes: Any) -> None:
        for cluster in self.clusters.values():
            cluster.gpus_of = {model.name: model.gpus for model in MODELS}
            await cluster.power_on()
        fields: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "clusters": tuple((name, cluster.url) for name, cluster in self.clusters.items()),
            "models": MODELS,
            "gateway_url": await self.it.url(self.gateway.app()),
            "token": TOKEN,
        }
        switches: dict[str, Any] = {"detect_interval_s": 0.03}
        switches |= {key: changes.pop(key) for key in changes.keys() & {field.name for field in fields_of(Switches)}}
        app, self.api = allocator.build(AllocatorConfig(**fields | changes, switches=Switches(**switches)))
        self.url = await self.it.url(app)
        await self.it.until(lambda: self.api.controller.placed)

    def where(self) -> dict[str, list[str]]:
        """model -> clusters of its live replicas, as the clusters themselves list them."""
        found: dict[str, list[str]] = {}
        for cluster in self.clusters.values():
            for row in cluster.replicas.values():
                found.setdefault(row["model"], []).append(cluster.name)
        return {model: sorted(clusters) for model, clusters in found.items()}

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.api.events.events if event.kind == kind]

    async def lose(self, name: str) -> None:
        cluster = self.clusters[name]
        await cluster.power_off()
        cluster.replicas.clear()
        await self.it.until(lambda: any(e.cluster == name for e in self.events("detected")))

    async def settled(self, **counts: int) -> None:
        def is_so() -> bool:
            found = Counter(model for model, clusters in self.where().items() for _ in clusters)
            return all(found[model] == count for model, count in counts.items())

        await self.it.until(is_so)


HOME = {"big": ["cobalt"], "chat": ["amber", "cobalt", "jade"], "code": ["cobalt"]}


@pytest.fixture
def stage(lab: Any, control_plane: Any) -> Any:
    @contextlib.asynccontextmanager
    async def make(gpus: int = 8, **changes: Any) -> AsyncIterator[Stage]:
        async with lab() as it:
            made = Stage(it, control_plane, gpus)
            await made.start(**changes)
            yield made

    return make


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
            await asyncio.sleep(0.15)
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
