"""Many who ask a cluster for its replicas at the same time are answered by one call, and none of them ends it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fleet.serving.clients import ClusterClient, Listing, Unanswered


def test_an_answer_under_way_is_everybodys_and_the_next_question_is_a_new_one(lab: Any) -> None:
    asked: list[int] = []
    answer_now = asyncio.Event()

    async def replicas(_: web.Request) -> web.Response:
        asked.append(len(asked))
        await answer_now.wait()
        if len(asked) == 3:
            return web.Response(status=503)
        return web.json_response({"replicas": [{"name": f"chat-{len(asked)}", "phase": "Ready"}]})

    async def go() -> None:
        app = web.Application()
        app.router.add_get("/replicas", replicas)
        async with lab() as it, aiohttp.ClientSession() as session:
            listing = Listing(ClusterClient("cobalt", await it.url(app), session))
            asking = [asyncio.create_task(listing.replicas()) for _ in range(6)]
            await it.until(lambda: asked == [0])
            asking.pop(0).cancel()  # the one that began the call is not the only one that needs it
            answer_now.set()
            assert [set(found) for found in await asyncio.gather(*asking)] == [{"chat-1"}] * 5
            assert set(await listing.replicas()) == {"chat-2"}
            with pytest.raises(Unanswered, match="503"):
                await listing.replicas()
        assert asked == [0, 1, 2]

    asyncio.run(go())


def test_a_call_that_fails_when_nobody_waits_any_more_is_no_complaint(lab: Any) -> None:
    complaints: list[Any] = []
    asked, answer_now = asyncio.Event(), asyncio.Event()

    async def replicas(_: web.Request) -> web.Response:
        asked.set()
        await answer_now.wait()
        return web.Response(status=503)

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        app = web.Application()
        app.router.add_get("/replicas", replicas)
        async with lab() as it, aiohttp.ClientSession() as session:
            listing = Listing(ClusterClient("cobalt", await it.url(app), session))
            asking = [asyncio.create_task(listing.replicas()) for _ in range(2)]
            await asked.wait()
            for task in asking:
                task.cancel()
            assert all(
                isinstance(it, asyncio.CancelledError) for it in await asyncio.gather(*asking, return_exceptions=True)
            )
            answer_now.set()
            call = listing._asked
            assert call is not None
            await it.until(call.done)
        del listing, asking, call
        gc.collect()

    asyncio.run(go())
    assert complaints == []
