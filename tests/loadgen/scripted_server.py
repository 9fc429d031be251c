"""Scripted servers with known outages: small OpenAI-speaking HTTP servers, many in one process, one a model.

`python scripted_server.py` with one JSON object a line on stdin:
first {"servers": [{"name", "mode", "host"}]}; it answers {"ports": {name: port}}; then
{"down_ns", "up_ns": {name: ns}}: each server breaks at ``down_ns`` and is whole again at its ``up_ns`` (monotonic).
At the end of stdin it answers {"truth": {name: [before_ns, after_ns]}}: the two clock readings around the healing act.

Modes: refused      the listener and every connection close; the listener opens again
       backlog      accepts no more, with a full accept queue: connection attempts time out; open ones stay silent
       stall        accepts and reads; everything is answered at the end
       hang         accepts and reads; what was asked during the outage is never answered
       cut          answers begin and break off after two tokens
       http-429/503 refuses every request at once
       none         no outage of its own (frozen from outside, or never)
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import Callable

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
MAX_TOKENS = re.compile(rb'"max_tokens": *(\d+)')
TOKEN_GAP_S = 0.002


class Connection(asyncio.Protocol):
    """One client connection; requests one after the other."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""
        self.dead = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.dead = True
        self.server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while not self.dead and b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            found = LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.server.request(self, rest[:length])

    def send(self, data: bytes) -> None:
        if not self.dead and not self.transport.is_closing():
            self.transport.write(data)


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


TOKEN = chunk('data: {"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n')
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"x-served-by: scripted/node-1/server-1\r\nx-weights: resident\r\n\r\n"
)


def tail(tokens: int) -> bytes:
    end = '{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}'
    usage = f'{{"choices":[],"usage":{{"completion_tokens":{tokens}}}}}'
    return chunk(f"data: {end}\n\ndata: {usage}\n\ndata: [DONE]\n\n") + b"0\r\n\r\n"


class Server:
    """One scripted server; ``token_gap_s`` 0 answers in a single write."""

    def __init__(self, name: str, mode: str, host: str, token_gap_s: float = TOKEN_GAP_S) -> None:
        self.name = name
        self.mode = mode
        self.token_gap_s = token_gap_s
        self.down = False
        self.connections: set[Connection] = set()
        self.stalled: list[Callable[[], None]] = []
        self.fillers: list[socket.socket] = []
        self.truth = (0, 0)
        self.loop = asyncio.get_running_loop()
        self.listener = self.listen((host, 0))
        self.address: tuple[str, int] = self.listener.getsockname()

    def listen(self, address: tuple[str, int]) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(512)
        self.loop.add_reader(listener.fileno(), self.accept, listener)
        return listener

    def accept(self, listener: socket.socket) -> None:
        for _ in range(100):
            try:
                peer, _address = listener.accept()
            except BlockingIOError:
                return
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self.loop.create_task(self.loop.connect_accepted_socket(lambda: Connection(self), peer))
            TASKS.add(task)
            task.add_done_callback(TASKS.discard)

    def request(self, connection: Connection, body: bytes) -> None:
        found = MAX_TOKENS.search(body)
        tokens = int(found[1]) if found else 1
        if not self.down:
            self.answer(connection, tokens)
        elif self.mode == "stall":
            self.stalled.append(lambda: self.answer(connection, tokens))
        elif self.mode == "cut":
            connection.send(HEAD + TOKEN + TOKEN)
            self.loop.call_later(self.token_gap_s, connection.transport.close)
        elif self.mode.startswith("http-"):
            status = self.mode.removeprefix("http-")
            connection.send(f"HTTP/1.1 {status} Scripted\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        else:  # hang, and connections that a full accept queue let through
            connection.dead = True

    def answer(self, connection: Connection, tokens: int) -> None:
        if not self.token_gap_s:
            connection.send(HEAD + TOKEN * tokens + tail(tokens))
            return
        connection.send(HEAD + TOKEN)
        self.loop.call_later(self.token_gap_s, self.finish, connection, tokens)

    def finish(self, connection: Connection, tokens: int) -> None:
        if self.down and self.mode == "cut":
            connection.transport.close()
        else:
            connection.send(TOKEN * (tokens - 1) + tail(tokens))

    def break_now(self) -> None:
        self.down = True
        if self.mode in ("refused", "backlog"):
            self.loop.remove_reader(self.listener.fileno())
        if self.mode == "refused":
            self.listener.close()
            for connection in list(self.connections):
                connection.transport.abort()
        elif self.mode == "backlog":
            for connection in self.connections:
                connection.dead = True
            self.listener.listen(0)
            for _ in range(4):  # a queue of one is full with one
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(self.address)
                self.fillers.append(filler)

    def heal_now(self) -> None:
        before = time.monotonic_ns()
        self.down = False
        if self.mode == "refused":
            self.listener = self.listen(self.address)
        elif self.mode == "backlog":
            for filler in self.fillers:
                filler.close()
            self.listener.listen(512)
            self.loop.add_reader(self.listener.fileno(), self.accept, self.listener)
        for answer in self.stalled:
            answer()
        self.stalled.clear()
        self.truth = (before, time.monotonic_ns())


TASKS: set[asyncio.Task[object]] = set()


async def at(due_ns: int, act: Callable[[], None]) -> None:
    await asyncio.sleep(max((due_ns - time.monotonic_ns()) / 1e9, 0))
    act()


async def main(token_gap_s: float) -> None:
    loop, stdin = asyncio.get_running_loop(), asyncio.StreamReader(1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    asked = json.loads(await stdin.readline())
    servers = [Server(s["name"], s["mode"], s["host"], token_gap_s) for s in asked["servers"]]
    sys.stdout.write(json.dumps({"ports": {s.name: s.address[1] for s in servers}}) + "\n")
    sys.stdout.flush()
    if line := await stdin.readline():
        plan = json.loads(line)
        scripted = [server for server in servers if server.mode != "none"]
        acts = [at(plan["down_ns"], server.break_now) for server in scripted]
        acts += [at(plan["up_ns"][server.name], server.heal_now) for server in scripted]
        await asyncio.gather(*acts)
        await stdin.read()
    sys.stdout.write(json.dumps({"truth": {s.name: s.truth for s in servers}}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else TOKEN_GAP_S))
