"""Event streams: backlog, news at once, keep-alive, gaps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fleet.serving import events
from fleet.serving.events import Event, EventLog, decode_event, follow


def app_of(log: EventLog) -> web.Application:
    app = web.Application()
    app.router.add_get("/events", log.handler)
    return app


async def take(stream: AsyncIterator[Event], count: int) -> list[Event]:
    found = []
    async for event in stream:
        found.append(event)
        if len(found) == count:
            break
    return found


def test_news_arrive_in_order_within_milliseconds(lab: Any) -> None:
    async def go() -> float:
        async with lab() as it:
            log = EventLog()
            async with follow(it.session, await it.url(app_of(log))) as stream:
                delays = []
                for number in range(20):
                    task = asyncio.create_task(take(stream, 1))
                    await asyncio.sleep(0.001)
                    event = log.append("replica.ready", replica=f"a-{number}", detail={"url": "x"})
                    assert await task == [event]
                    delays.append((time.monotonic_ns() - event.t_emitted) / 1e6)
            return sorted(delays)[10]

    assert asyncio.run(go()) < 20


@pytest.mark.parametrize(
    ("after", "life", "expected"),
    [(0, "", [1, 2]), (1, "", [2]), (-1, "", []), (9, "", [1, 2]), (1, "another", [1, 2]), (-1, "another", [1, 2])],
)
def test_where_a_stream_begins(lab: Any, after: int, life: str, expected: list[int]) -> None:
    async def go() -> None:
        async with lab() as it:
            log = EventLog()
            url = await it.url(app_of(log))
            log.append("a")
            log.append("b")
            query = {"after": str(after)} | ({"life": life} if life else {})
            async with it.session.get(f"{url}/events", params=query) as response:
                assert response.headers["x-life"] == log.life
                log.append("end", t_emitted=77)
                found: list[Event] = []
                while 3 not in [event.n for event in found]:
                    if line := (await response.content.readline()).strip():
                        found.append(decode_event(line))
            assert [event.n for event in found] == [*expected, 3]
            assert found[-1].t_emitted == 77

    asyncio.run(go())


def test_a_silent_stream_is_kept_alive_and_a_frozen_one_is_given_up(lab: Any, monkeypatch: Any) -> None:
    async def frozen(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"\n")
        await asyncio.sleep(5)
        return response

    async def go() -> None:
        monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.02)
        async with lab() as it:
            log = EventLog()
            async with follow(it.session, await it.url(app_of(log)), silence_s=0.1) as stream:
                asyncio.get_running_loop().call_later(0.3, log.append, "late")
                assert [event.kind for event in await take(stream, 1)] == ["late"]
            app = web.Application()
            app.router.add_get("/events", frozen)
            async with follow(it.session, await it.url(app), silence_s=0.1) as stream:
                with pytest.raises(TimeoutError):
                    await take(stream, 1)

    asyncio.run(go())


def test_a_closed_log_ends_its_streams_and_a_bad_question_is_refused(lab: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            log = EventLog()
            url = await it.url(app_of(log))
            async with follow(it.session, url) as stream:
                log.close()
                assert await take(stream, 1) == []
            async with it.session.get(f"{url}/events?after=x") as response:
                assert response.status == 400
            with pytest.raises(aiohttp.ClientError, match="404"):
                async with follow(it.session, f"{url}/nothing"):
                    pass

    asyncio.run(go())
