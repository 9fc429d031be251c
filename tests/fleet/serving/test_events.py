"""Event streams: backlog, news at once, keep-alive, gaps."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fleet.serving import events
from fleet.serving.events import Event, EventLog, open_stream


def app_of(log: EventLog) -> web.Application:
    app = web.Application()
    app.router.add_get("/events", log.handler)
    return app


async def take(stream: events.EventStream, count: int) -> list[Event]:
    found = []
    async for event in stream:
        found.append(event)
        if len(found) == count:
            break
    return found


def test_backlog_then_news_in_order(lab: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            log = EventLog(clock=iter(range(100)).__next__)
            url = await it.url(app_of(log))
            log.append("replica.created", replica="a")
            log.append("replica.ready", replica="a", t_emitted=77, detail={"url": "x"})
            stream = await open_stream(it.session, url, after=0)
            assert (stream.last, stream.life) == (2, log.life)
            task = asyncio.create_task(take(stream, 3))
            await asyncio.sleep(0.01)
            log.append("replica.gone", replica="a")
            found = await task
            assert [(e.n, e.kind, e.t_emitted) for e in found] == [
                (1, "replica.created", 0),
                (2, "replica.ready", 77),
                (3, "replica.gone", 1),
            ]
            assert found[1].detail == {"url": "x"}
            stream.close()

    asyncio.run(go())


def test_news_arrive_within_milliseconds(lab: Any) -> None:
    async def go() -> float:
        async with lab() as it:
            log = EventLog()
            stream = await open_stream(it.session, await it.url(app_of(log)))
            delays = []
            for _ in range(20):
                task = asyncio.create_task(take(stream, 1))
                await asyncio.sleep(0.001)
                event = log.append("x")
                await task
                delays.append((time.monotonic_ns() - event.t_emitted) / 1e6)
            stream.close()
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
            stream = await open_stream(it.session, url, after=after, life=life)
            log.append("end")
            found = await take(stream, len(expected) + 1)
            assert [event.n for event in found] == [*expected, 3]
            stream.close()

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
            stream = await open_stream(it.session, await it.url(app_of(log)), silence_s=0.1)
            asyncio.get_running_loop().call_later(0.3, log.append, "late")
            assert [event.kind for event in await take(stream, 1)] == ["late"]
            stream.close()
            app = web.Application()
            app.router.add_get("/events", frozen)
            stream = await open_stream(it.session, await it.url(app), silence_s=0.1)
            with pytest.raises(TimeoutError):
                await take(stream, 1)
            stream.close()

    asyncio.run(go())


def test_a_closed_log_ends_its_streams_and_a_bad_question_is_refused(lab: Any) -> None:
    async def go() -> None:
        async with lab() as it:
            log = EventLog()
            url = await it.url(app_of(log))
            stream = await open_stream(it.session, url)
            log.close()
            assert await take(stream, 1) == []
            async with it.session.get(f"{url}/events?after=x") as response:
                assert response.status == 400
            with pytest.raises(aiohttp.ClientError, match="404"):
                await open_stream(it.session, f"{url}/nothing")

    asyncio.run(go())
