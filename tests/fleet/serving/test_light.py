"""HTTP of the model server, byte by byte over real sockets: what is whole is answered once, what is not never is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.serving import light

HOST = "127.0.0.1"
GET = b"GET /echo?a=1 HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
LAST = b"GET /echo?last=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Stage:
    """A service with a route for everything that a handler can do, and what its handlers saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.go_on = asyncio.Event()
        self.log = logging.Logger("light")
        routes: dict[str, tuple[str, light.Handler]] = {
            "/echo": ("POST", self.echo),
            "/stream": ("GET", self.stream),
            "/flood": ("GET", self.flood),
            "/wait": ("GET", self.wait),
            "/breaks": ("GET", self.breaks),
            "/halfway": ("GET", self.halfway),
            "/forgets": ("GET", self.forgets),
        }
        self.service = light.Service(routes, self.log)

    async def echo(self, request: light.Request, reply: light.Reply) -> None:
        reply.tell(200, [request.method, dict(request.query), request.body.decode()], {"x-mark": "m"})

    async def stream(self, _: light.Request, reply: light.Reply) -> None:
        reply.begin(200, {}, "text/plain")
        await reply.write(b"one ")
        await reply.write(b"two ")
        reply.end(b"three")

    async def flood(self, _: light.Request, reply: light.Reply) -> None:
        reply.begin(200, {}, "text/plain")
        for _number in range(64):
            await reply.write(b"x" * 2**20)
            self.seen.append("written")
        reply.end(b"")

    async def wait(self, _: light.Request, reply: light.Reply) -> None:
        self.seen.append("asked")
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        reply.tell(200, "at last")

    async def breaks(self, _: light.Request, reply: light.Reply) -> None:
        raise ValueError("a bug")

    async def halfway(self, _: light.Request, reply: light.Reply) -> None:
        reply.begin(200, {}, "text/plain")
        await reply.write(b"half of it")
        raise ValueError("a bug")

    async def forgets(self, _: light.Request, reply: light.Reply) -> None:
        return


def on_stage(work: Callable[[Stage, int], Awaitable[Any]]) -> Any:
    """``work(stage, port)`` while the stage's service is open; what it returns."""

    async def go() -> Any:
        stage = Stage()
        async with asyncio.timeout(20), stage.service.listening(HOST, 0) as port:
            return await work(stage, port)

    return asyncio.run(go())


async def say(port: int, *pieces: bytes) -> bytes:
    """Sends the pieces one by one; all that comes until the server ends the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    try:
        return await reader.read()
    finally:
        writer.close()


def heard(*pieces: bytes) -> bytes:
    async def work(_: Stage, port: int) -> bytes:
        return await say(port, *pieces)

    answer: bytes = on_stage(work)
    return answer


def answers(text: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of each answer with a length in ``text``."""
    found = []
    while text:
        head, _, text = text.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        size = int(fields[b"content-length"])
        found.append((int(head.split()[1]), text[:size]))
        text = text[size:]
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([POST, CHUNKED]), max_size=light.MOST_WAITING - 1),
    st.lists(st.integers(0, 700), max_size=6),
)
def test_however_the_bytes_are_cut_each_request_is_answered_once_and_in_turn(
    asked: list[bytes], cuts: list[int]
) -> None:
    text = b"".join(asked) + LAST.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\ncontent-length: 0\r\n\r\n")
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    said = heard(*(text[a:b] for a, b in pairwise(edges)))
    assert answers(said) == [(200, b'["POST",{},"hello"]')] * len(asked) + [(200, b'["POST",{"last":"1"},""]')]
    assert said.count(b"x-mark: m\r\n") == len(asked) + 1
    assert said.count(b"\r\nconnection: close\r\n") == 1


def test_what_the_routes_do_not_have_is_404_another_method_405() -> None:
    said = heard(GET, b"GET /nowhere HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert [status for status, _ in answers(said)] == [405, 404]
    assert b"\r\nallow: POST\r\n" in said


def test_a_stream_is_chunked_for_http_1_1_and_ends_with_the_connection_for_1_0() -> None:
    said = heard(b"GET /stream HTTP/1.1\r\n\r\n", LAST)
    head, _, rest = said.partition(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked" in head
    assert rest.startswith(b"4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\nHTTP/1.1 405")
    old = heard(b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    head, _, rest = old.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert rest == b"one two three"


def test_head_says_the_length_and_sends_no_body() -> None:
    said = heard(b"HEAD /stream HTTP/1.1\r\n\r\n", LAST)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 405")
    said = heard(b"HEAD /nowhere HTTP/1.1\r\nconnection: close\r\n\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    assert (int(head.split()[1]), body) == (404, b"")
    assert int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]) > 0


def test_what_is_no_http_is_refused_and_the_connection_ends() -> None:
    for wrong in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        assert [status for status, _ in answers(heard(wrong))] == [400]
    said = answers(heard(POST + b"nonsense\r\n\r\n" + POST))
    assert [status for status, _ in said] == [200, 400]  # nothing after the nonsense was taken for a request
    smuggled = b"POST /echo HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1"
    assert [status for status, _ in answers(heard(smuggled + b"\r\n\r\n"))] == [400]


def test_a_body_over_the_limit_is_413(monkeypatch: Any) -> None:
    monkeypatch.setattr(light, "MAX_BODY_BYTES", 4)
    assert [status for status, _ in answers(heard(POST))] == [413]
    assert [status for status, _ in answers(heard(CHUNKED))] == [413]


def test_who_sends_too_much_ahead_is_answered_as_far_as_that_goes() -> None:
    said = answers(heard(POST * (light.MOST_WAITING + 5)))
    assert [status for status, _ in said] == [200] * light.MOST_WAITING + [400]


def test_another_protocol_is_refused_and_expect_is_answered() -> None:
    upgrade = b"POST /echo HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nhello"
    assert [status for status, _ in answers(heard(POST + upgrade + POST))] == [200, 400]
    head, _, body = POST.partition(b"\r\n\r\n")
    said = heard(head + b"\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n", body)
    assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_client_that_hangs_up_cancels_its_handler() -> None:
    async def work(stage: Stage, port: int) -> list[str]:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /wait HTTP/1.1\r\n\r\n")
        while not stage.seen:
            await asyncio.sleep(0.001)
        writer.close()
        while len(stage.seen) < 2:
            await asyncio.sleep(0.001)
        assert not stage.service.connections
        return stage.seen

    assert on_stage(work) == ["asked", "cancelled"]


def test_a_handler_that_fails_is_500_and_one_that_stops_midway_is_no_whole_answer() -> None:
    async def work(stage: Stage, port: int) -> tuple[bytes, list[bytes], list[str]]:
        records: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
        stage.log.addHandler(handler)
        whole = await say(port, b"GET /breaks HTTP/1.1\r\nconnection: close\r\n\r\n")
        broken = []
        for path in (b"/halfway", b"/forgets"):
            for version in (b"1.0", b"1.1"):
                with pytest.raises(ConnectionResetError):
                    await say(port, b"GET " + path + b" HTTP/" + version + b"\r\n\r\n")
                broken.append(path)
        return whole, broken, records

    whole, broken, records = on_stage(work)
    assert answers(whole) == [(500, b"""{"error":"ValueError('a bug')"}""")]
    assert len(broken) == 4
    assert records == ["GET /breaks failed", "GET /halfway failed", "GET /halfway failed"]


def test_who_does_not_read_stops_the_writer() -> None:
    async def work(stage: Stage, port: int) -> int:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /flood HTTP/1.1\r\nconnection: close\r\n\r\n")
        before = -1
        while before != len(stage.seen) or not before:
            before = len(stage.seen)
            await asyncio.sleep(0.2)
        assert before < 32, "half of it and more was taken although nobody read"
        await reader.readuntil(b"\r\n\r\n")
        text = await reader.read()
        writer.close()
        return text.count(b"x")

    assert on_stage(work) == 64 * 2**20


def test_an_idle_connection_ends_and_a_busy_one_does_not(monkeypatch: Any) -> None:
    monkeypatch.setattr(light, "KEEP_ALIVE_S", 0.1)

    async def work(stage: Stage, port: int) -> bytes:
        idle = await say(port, b"")
        asked = asyncio.create_task(say(port, b"GET /wait HTTP/1.1\r\n\r\n"))
        await asyncio.sleep(0.3)
        stage.go_on.set()
        return idle + await asked

    assert answers(on_stage(work)) == [(200, b'"at last"')]


def test_the_end_waits_for_what_is_in_flight_a_little_and_no_longer(monkeypatch: Any) -> None:
    async def go() -> bytes:
        monkeypatch.setattr(light, "SHUTDOWN_S", 10.0)
        stage = Stage()
        async with stage.service.listening(HOST, 0) as port:
            quick = asyncio.create_task(say(port, b"GET /wait HTTP/1.1\r\n\r\n"))
            while not stage.seen:
                await asyncio.sleep(0.001)
            asyncio.get_running_loop().call_later(0.01, stage.go_on.set)
        first = await quick
        monkeypatch.setattr(light, "SHUTDOWN_S", 0.05)
        stage = Stage()
        async with stage.service.listening(HOST, 0) as port:
            slow = asyncio.create_task(say(port, b"GET /wait HTTP/1.1\r\n\r\n"))
            while not stage.seen:
                await asyncio.sleep(0.001)
        assert stage.seen == ["asked", "cancelled"]
        assert not stage.service.connections
        with pytest.raises(ConnectionResetError):
            await slow
        return first

    assert [status for status, _ in answers(asyncio.run(go()))] == [200]


def test_at_the_end_idle_connections_close_at_once_and_nobody_is_served_on_them(monkeypatch: Any) -> None:
    monkeypatch.setattr(light, "SHUTDOWN_S", 10.0)

    async def go() -> tuple[bytes, bytes]:
        stage = Stage()
        async with stage.service.listening(HOST, 0) as port:
            idle = asyncio.create_task(say(port, b""))
            busy = asyncio.create_task(say(port, b"GET /wait HTTP/1.1\r\n\r\n"))
            while not stage.seen or len(stage.service.connections) < 2:
                await asyncio.sleep(0.001)
            idle.add_done_callback(lambda _: stage.go_on.set())
        return await idle, await busy

    idle, busy = asyncio.run(go())
    assert idle == b""
    assert [status for status, _ in answers(busy)] == [200]


@pytest.mark.parametrize("turns", range(6))
def test_at_the_end_a_connection_just_accepted_closes_too(turns: int) -> None:
    async def go() -> socket.socket:
        async with Stage().service.listening(HOST, 0) as port:
            client = socket.create_connection((HOST, port))
            for _turn in range(turns):
                await asyncio.sleep(0)
        return client

    with asyncio.run(go()) as client:
        client.settimeout(5.0)
        with contextlib.suppress(ConnectionResetError):  # it had not been accepted yet
            assert client.recv(1) == b""


def test_a_head_without_end_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(light, "MAX_HEAD_BYTES", 1000)
    line = b"x-long: " + b"x" * 92 + b"\r\n"
    assert answers(heard(POST, *[b"GET /echo HTTP/1.1\r\n", *[line] * 11]))[-1][0] == 400
    many = [POST.replace(b"\r\n\r\n", b"\r\n" + line * 5 + b"\r\n")] * 3
    assert [status for status, _ in answers(heard(*many, LAST))] == [200] * 3 + [405]


# -- post


def test_post_brings_status_and_body_however_they_are_framed(lab: Any) -> None:
    async def whole(request: web.Request) -> web.Response:
        assert request.headers["x-key"] == "k"
        return web.Response(status=201, body=await request.read())

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in (b"a", b"b" * 100_000):
            await response.write(part)
        return response

    async def go() -> None:
        async with lab() as it:
            app = web.Application()
            app.add_routes([web.post("/whole", whole), web.post("/chunked", chunked)])
            url = await it.url(app)
            assert await light.post(f"{url}/whole", b"{}", {"x-key": "k"}, 5) == (201, b"{}")
            assert await light.post(f"{url}/chunked", b"", {}, 5) == (200, b"a" + b"b" * 100_000)

    asyncio.run(go())


def test_post_says_how_it_failed() -> None:
    async def answering(said: bytes | None) -> tuple[asyncio.Server, str]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if said is None:
                await reader.read()
            else:
                writer.write(said)
            writer.close()

        server = await asyncio.start_server(serve, HOST, 0)
        return server, f"http://{HOST}:{server.sockets[0].getsockname()[1]}/x"

    async def go() -> None:
        for said, error, reason in (
            (b"", ConnectionError, "hung up before its answer to /x was whole"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", ConnectionError, "hung up before"),
            (b"SSH-2.0-OpenSSH\r\n", ConnectionError, "does not speak HTTP"),
            (None, TimeoutError, None),
        ):
            server, url = await answering(said)
            async with server:
                with pytest.raises(error, match=reason) as found:
                    await light.post(url, b"{}", {}, 0.2)
                assert not isinstance(found.value, light.NoConnection)
        with pytest.raises(light.NoConnection, match=r"cannot connect to 127\.0\.0\.1:"):
            await light.post(url, b"{}", {}, 0.2)

    asyncio.run(go())
