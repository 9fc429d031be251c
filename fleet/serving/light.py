"""HTTP/1.1 for the one process whose start a drill measures, the model server: a service, and ``post`` for the little
that it asks of others. asyncio and httptools; everybody else has aiohttp, which takes longer to import than all of this
and its asyncio together (``docs/decisions/0007``).

One request of a connection is answered at a time, those after it wait. A client that hangs up cancels its handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from fleet.serving.process import BACKLOG, KEEP_ALIVE_S, MAX_BODY_BYTES, SHUTDOWN_S, cannot_listen, stop_accepting

CONNECT_S: Final = 1.0
MOST_WAITING: Final = 4
"""Requests that a connection may send ahead of their answers; one with more is closed."""
MAX_HEAD_BYTES: Final = 2**19
LINGER_S: Final = 1.0
"""So long a client that was refused may go on sending: a close with bytes unread may undo the answer before it."""

JSON: Final = "application/json"
_PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request(NamedTuple):
    """One request, whole. ``path`` is without its ``query``; headers are nobody's business here."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


class Reply:
    """The answer to one request: ``whole`` at once, or ``begin``, ``write`` as it comes, ``end``."""

    def __init__(self, connection: _Connection, asked: _Asked) -> None:
        self._connection = connection
        self._asked = asked
        self._head = b""
        self._chunked = False
        self.begun = self.ended = False

    def whole(self, status: int, body: bytes, headers: Mapping[str, str], content_type: str = JSON) -> None:
        """The whole answer."""
        self._open(status, {"content-type": content_type, "content-length": str(len(body)), **headers})
        self._send(body)
        self.ended = True

    def tell(self, status: int, told: Any, headers: Mapping[str, str] | None = None) -> None:
        """The whole answer, as JSON."""
        self.whole(status, msgspec.json.encode(told), headers or {})

    def begin(self, status: int, headers: Mapping[str, str], content_type: str) -> None:
        """An answer whose length nobody knows yet. Its head leaves with what is written first."""
        self._chunked = self._asked.keeps  # whoever does not know chunks reads until the connection ends
        framing = {"transfer-encoding": "chunked"} if self._chunked else {}
        self._open(status, {"content-type": content_type, **framing, **headers})

    async def write(self, data: bytes) -> None:
        """A piece of the body; waits while the client is slow to read."""
        self._send(_chunk(data) if self._chunked else data)
        await self._connection.writable.wait()

    def end(self, data: bytes) -> None:
        """The last piece."""
        self._send(_chunk(data) + b"0\r\n\r\n" if self._chunked else data)
        self.ended = True

    def _open(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        lines = [f"HTTP/1.1 {status} {_PHRASES[status]}", f"date: {_date(int(time.time()))}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [] if self._asked.keeps else ["connection: close"]
        self._head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _send(self, data: bytes) -> None:
        self._connection.transport.write(self._head + (b"" if self._asked.request.method == "HEAD" else data))
        self._head = b""


Handler = Callable[[Request, Reply], Awaitable[None]]
Routes = Mapping[str, tuple[str, Handler]]
"""Path -> (method, handler)."""


class Service:
    """What answers at an address: its routes, and their connections. Used from one event loop."""

    def __init__(self, routes: Routes, log: logging.Logger) -> None:
        self.log = log
        self.connections: set[_Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._routes = routes

    @asynccontextmanager
    async def listening(self, host: str, port: int, taken: socket.socket | None = None) -> AsyncIterator[int]:
        """Serves while it is open, and yields its port. ``taken``: a socket that has the address already.

        What is in flight at the end has ``SHUTDOWN_S`` to end by itself. ``FleetError``: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        where: dict[str, Any] = {"sock": taken} if taken else {"host": host, "port": port, "reuse_address": True}
        try:
            server = await loop.create_server(lambda: _Connection(self), backlog=BACKLOG, **where)
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            try:
                await stop_accepting(*server.sockets)
            finally:
                server.close()
            for idle in [one for one in self.connections if one.task is None]:
                idle.transport.close()
            running = [one.task for one in self.connections if one.task is not None]
            if running:
                await asyncio.wait(running, timeout=SHUTDOWN_S)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for connection in tuple(self.connections):
                connection.transport.close()  # once what was written has left
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), SHUTDOWN_S)
            for connection in tuple(self.connections):
                connection.transport.abort()

    def opened(self, connection: _Connection) -> None:
        """It is to be closed at the end."""
        self.connections.add(connection)
        self._empty.clear()

    def lost(self, connection: _Connection) -> None:
        """It is no more."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    async def answer(self, request: Request, reply: Reply) -> None:
        """By its route, if it has one."""
        method, handler = self._routes.get(request.path, ("", None))
        if handler is None:
            reply.tell(404, {"error": f"there is no {request.path}"})
        elif request.method != method and (request.method, method) != ("HEAD", "GET"):
            reply.tell(405, {"error": f"{request.path} takes {method} only"}, {"allow": method})
        else:
            await handler(request, reply)


class _Asked(NamedTuple):
    request: Request
    keeps: bool
    """May the connection stay open, and does its client know chunks (HTTP/1.1)?"""


class _Connection(asyncio.Protocol):
    """One client. Its first methods are asyncio's, the ``on_`` ones are the parser's."""

    transport: asyncio.Transport

    def __init__(self, service: Service) -> None:
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self._service = service
        self._parser = HttpRequestParser(self)
        self._body: list[bytes] = []
        self._waiting: deque[_Asked] = deque()
        self._wrong: tuple[int, str] | None = None
        self._deaf = False
        self._in_head, self._head_bytes = True, 0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.writable.set()
        self._service.opened(self)
        self._rest()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.task is None:
            self._rest()
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:  # its body would be the other protocol's
            if not self._deaf:
                self._waiting.pop()
            self._refuse(400, "no other protocol is spoken here than HTTP/1.1")
        except HttpParserError as error:
            self._refuse(400, f"this is not HTTP/1.1: {error}")
        self._head_bytes += len(data) if self._in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(400, f"the head of a request has over {MAX_HEAD_BYTES} bytes")
        if self.task is None and (self._waiting or self._wrong):
            self._stir()
            self.task = asyncio.create_task(self._answer())

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._service.lost(self)
        self._stir()
        self.writable.set()
        if self.task is not None:
            self.task.cancel()

    def on_message_begin(self) -> None:
        self._url, self._body, self._body_bytes = b"", [], 0
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect" and value.lower() == b"100-continue" and self.task is None:
            self.transport.write(_CONTINUE)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= MAX_BODY_BYTES:
            self._body.append(body)
        else:
            self._refuse(413, f"the body has over {MAX_BODY_BYTES} bytes")

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        path, _, query = self._url.decode("latin-1").partition("?")
        parser = self._parser
        request = Request(parser.get_method().decode(), path, _query(query), b"".join(self._body))
        if len(self._waiting) < MOST_WAITING:
            keeps = parser.should_keep_alive() and parser.get_http_version() == "1.1"
            self._waiting.append(_Asked(request, keeps))
        else:
            self._refuse(400, f"more than {MOST_WAITING} requests were sent ahead")

    def _refuse(self, status: int, reason: str) -> None:
        self._wrong, self._deaf = self._wrong or (status, reason), True

    async def _answer(self) -> None:
        """All that was asked, in turn; then what was wrong with the rest, if anything was."""
        while self._waiting:
            asked = self._waiting.popleft()
            await self._one(asked)
            if not asked.keeps or self.transport.is_closing():
                self.transport.close()
                return
            await self.writable.wait()
        if self._wrong is not None:
            status, reason = self._wrong
            Reply(self, _Asked(Request("", "", {}, b""), False)).tell(status, {"error": reason})
            self.transport.write_eof()
            self._idle = asyncio.get_running_loop().call_later(LINGER_S, self.transport.close)
            return
        self.task = None
        self._rest()

    async def _one(self, asked: _Asked) -> None:
        reply = Reply(self, asked)
        try:
            await self._service.answer(asked.request, reply)
        except Exception as error:
            self._service.log.exception("%s %s failed", asked.request.method, asked.request.path)
            if not reply.begun:
                reply.tell(500, {"error": repr(error)})
        finally:
            if not reply.ended:
                self._break()

    def _break(self) -> None:
        """Ends the connection with a reset: an answer that stops midway must look whole to nobody."""
        found = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _rest(self) -> None:
        self._stir()
        self._idle = asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self.transport.close)

    def _stir(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class NoConnection(ConnectionError):
    """Nobody took the connection: nothing was sent."""


class _Answer:
    """What the parser of an answer finds."""

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.complete = True


async def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
    """POSTs JSON on a connection of its own; (status, body).

    ``NoConnection`` (at most after ``CONNECT_S``); ``TimeoutError`` after ``timeout_s``; ``ConnectionError``: it broke,
    or what answered is not HTTP.
    """
    parts = urlsplit(url)
    async with asyncio.timeout(timeout_s):
        try:
            connecting = asyncio.open_connection(parts.hostname, parts.port)
            reader, writer = await asyncio.wait_for(connecting, CONNECT_S)
        except OSError as error:  # a time-out is one too
            raise NoConnection(f"cannot connect to {parts.netloc}: {error or 'no answer'}") from error
        try:
            lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
            lines += ["connection: close", f"content-type: {JSON}", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            answer = _Answer()
            parser = HttpResponseParser(answer)
            while not answer.complete:
                data = await reader.read(2**16)
                if not data:
                    raise ConnectionError(f"{parts.netloc} hung up before its answer to {parts.path} was whole")
                parser.feed_data(data)
            return parser.get_status_code(), b"".join(answer.body)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise ConnectionError(f"{parts.netloc} does not speak HTTP: {error}") from error
        finally:
            writer.close()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _query(text: str) -> Mapping[str, str]:
    return dict(parse_qsl(text)) if text else {}


def _date(now_s: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now_s))
