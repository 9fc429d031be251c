"""``Client``: one measured request over gevent sockets, one op: a greenlet a request of the load, and of the probers.

Never retries: what the first attempt met is what is recorded. A failed exchange closes its connection, whatever the
failure was, and connections are kept alive otherwise.

Sockets are gevent's, HTTP is parsed by geventhttpclient's ``HTTPResponse`` (llhttp, in C). Its ``HTTPClient`` is not
used: it sends again when a pooled connection broke, its network time-out is per read instead of total, and it blocks
on a semaphore when its pool is used up, which would close the loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gevent
from geventhttpclient.response import HTTPParseError, HTTPResponse
from msgspec.structs import replace

from history.clock import NS_PER_S, Clock, now_ns
from history.errors import UsageError
from history.op import (
    BAD_BODY,
    CONNECT_TIMEOUT,
    CUT,
    DROPPED,
    NEVER,
    NOT_DRAINED,
    REFUSED,
    RESET,
    TIMEOUT,
    UNREACHABLE,
    Op,
)
from history.records import Mix, MixEntry, Target
from loadgen.exchange import MAX_BODY_BYTES, PATHS, Answer, answer_to, request_body, tokens_expected
from loadgen.pool import Connection, Pool

_BLOCK_BYTES = 65_536
_SAID_BYTES = 200
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})
_NOT_CONNECTED = {
    errno.ECONNREFUSED: REFUSED,
    errno.ETIMEDOUT: CONNECT_TIMEOUT,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    # this machine's own limits are no failure of the target
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL), DROPPED),
}
"""Why a connection could not be made; UNREACHABLE for every other reason."""


class _Failed(Exception):
    """Ends an exchange with an error category; ``broken``: the connection's fault, not only this answer's."""

    def __init__(self, error: str, *, broken: bool = True, said: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.broken = broken
        self.said = said


class _Response(HTTPResponse):  # type: ignore[misc]  # mypy skips geventhttpclient
    """Parses one response and hands its body on as it comes in, instead of keeping it."""

    def __init__(self) -> None:
        super().__init__("POST")
        self._parts: list[bytes] = []

    def _on_body(self, buf: bytearray) -> None:
        self._parts.append(bytes(buf))

    def take(self) -> bytes:
        """The body's bytes since the last call."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def status(self) -> int:
        """The final status; 0 while there is none (interim 1xx answers do not count)."""
        code = int(self.get_code()) if self.headers_complete else 0
        return code if code >= 200 else 0

    def header(self, name: str) -> str:
        """A header's value; empty when absent or given twice."""
        value = self.get(name) if self.headers_complete else ""
        return value if isinstance(value, str) else ""


@dataclass(frozen=True)
class Ask:
    """One thing that is asked: ``op`` is what every op of it says, ``entry`` what a good answer is (None: any 2xx)."""

    op: Op
    pool: Pool
    head: str
    entry: MixEntry | None = None

    def request(self, seq: int) -> bytes:
        """The bytes of request ``seq``."""
        if self.entry is None:
            return f"{self.head}\r\n".encode("latin-1")
        body = request_body(self.entry, seq)
        return f"{self.head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def asks_of(
    target: Target,
    mix: Mix,
    op: Op,
    *,
    keep: bool = True,
    environ: Callable[[str], str | None] = os.environ.get,
    clock: Clock = now_ns,
) -> tuple[Ask, ...]:
    """What each entry of a mix asks of a target; the ops' kind is the entry's where ``op`` has none.

    ``keep``: connections are kept alive. ``UsageError`` without the token that the target needs.
    """
    token = environ(target.auth_env) if target.auth_env else None
    if target.auth_env and not token:
        raise UsageError(
            f"the target's token is read from ${target.auth_env}, which is empty", hint=f"export {target.auth_env}=…"
        )
    pools = {url: Pool(url, clock, keep=keep) for url in {target.url_of(entry.model) for entry in mix.entries}}
    more = "Content-Type: application/json\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
    asks = []
    for entry in mix.entries:
        pool = pools[target.url_of(entry.model)]
        mine = replace(op, kind=op.kind or entry.kind, model=entry.model, tokens_expected=tokens_expected(entry))
        asks.append(Ask(mine, pool, pool.head("POST", PATHS[entry.kind]) + more, entry))
    return tuple(asks)


class Client:
    """Asks, and turns each request into an op. Not for use from several threads."""

    def __init__(self, asks: Sequence[Ask], connect_s: float, total_s: float, clock: Clock = now_ns) -> None:
        self._asks, self._connect_s, self._total_s, self._clock = asks, connect_s, total_s, clock

    def close(self) -> None:
        """Closes idle connections."""
        for ask in self._asks:
            ask.pool.close()

    def unknown(self, seq: int, ask: int, t_intended: int, error: str, why: str = "", *, t_sent: int = NEVER) -> Op:
        """The op of a send that never went out (``DROPPED``) or whose end nobody saw (``NOT_DRAINED``)."""
        detail = {"why": why} if why else {}
        return replace(
            self._asks[ask].op,
            seq=seq,
            t_intended=t_intended,
            outcome="unknown",
            error=error,
            t_sent=t_sent,
            detail=detail,
        )

    def send(self, seq: int, ask: int, t_intended: int) -> Op:
        """Sends once and waits for the end of the answer, at most the total time-out from now. Never raises OSError.

        Killed meanwhile (the drain is over), it returns the unknown op all the same.
        """
        asked, t_sent = self._asks[ask], self._clock()
        answer = answer_to(asked.entry) if asked.entry is not None else None
        response, error, said = _Response(), "", ""
        try:
            self._exchange(asked, seq, t_sent, answer, response)
        except _Failed as failure:
            error, said = failure.error, failure.said
        except gevent.GreenletExit:
            return self.unknown(seq, ask, t_intended, NOT_DRAINED, t_sent=t_sent)
        t_done = self._clock()
        if error == DROPPED:
            return self.unknown(seq, ask, t_intended, DROPPED, said)
        cluster, node, replica = (*response.header("x-served-by").split("/"), "", "", "")[:3]
        return replace(
            asked.op,
            seq=seq,
            t_intended=t_intended,
            outcome="fail" if error else "ok",
            t_sent=t_sent,
            t_first_byte=answer.t_first_byte if answer is not None else NEVER,
            t_done=t_done,
            cluster=asked.op.cluster or cluster,
            node=asked.op.node or node,
            replica=replica,
            error=error,
            status=response.status,
            weights=response.header("x-weights"),
            fallback=response.header("x-fallback"),
            tokens=answer.tokens if answer is not None else 0,
            detail={"said": said} if said else {},
        )

    def _exchange(self, ask: Ask, seq: int, t_sent: int, answer: Answer | None, response: _Response) -> None:
        connection = ask.pool.reuse() or self._connect(ask.pool)
        try:
            with gevent.Timeout(max(self._total_s - (self._clock() - t_sent) / NS_PER_S, 0.0), _Failed(TIMEOUT)):
                self._talk(connection, ask.request(seq), answer, response)
        except BaseException as error:  # also when killed at the end of the drain
            ask.pool.discard(connection, broken=not isinstance(error, _Failed) or error.broken)
            if isinstance(error, OSError):
                raise _Failed(_category(error, response), said=str(error)) from None
            raise
        if response.should_close():
            connection.socket.close()
        else:
            ask.pool.keep(connection)

    def _connect(self, pool: Pool) -> Connection:
        """A new connection within the connect time-out (which the total one does not exceed)."""
        try:
            with gevent.Timeout(min(self._connect_s, self._total_s), _Failed(CONNECT_TIMEOUT)):
                return pool.connect()
        except OSError as error:
            failure = _Failed(_NOT_CONNECTED.get(error.errno or 0, UNREACHABLE), said=str(error))
        except _Failed as late:
            failure = late
        if failure.error != DROPPED:
            pool.broken()
        raise failure

    def _talk(self, connection: Connection, request: bytes, answer: Answer | None, response: _Response) -> None:
        """Sends the request and reads to the end of the answer; returns only when it is complete and correct."""
        socket, received = connection.socket, 0
        socket.sendall(request)
        while not (response.message_complete and response.status):
            data = socket.recv(_BLOCK_BYTES)
            now = self._clock()
            received += len(data)
            try:
                response.feed(data)
            except HTTPParseError as error:
                raise _Failed(BAD_BODY if data else _cut(response), said=str(error)) from None
            status, body = response.status, response.take()
            if status and status != 200 and (answer is not None or status >= 300):
                raise _Failed(f"http-{status}", broken=False, said=body[:_SAID_BYTES].decode("utf-8", "replace"))
            if body and answer is not None:
                answer.feed(body, now)
            if not data and not response.message_complete:
                raise _Failed(_cut(response))
            if received > MAX_BODY_BYTES:
                raise _Failed(BAD_BODY, said=f"more than {MAX_BODY_BYTES} bytes")
        if answer is not None and (wrong := answer.error()):
            raise _Failed(wrong)


def _cut(response: _Response) -> str:
    """The peer ended the connection: before its answer began (reset) or inside it (cut)."""
    return CUT if response.status else RESET


def _category(error: OSError, response: _Response) -> str:
    if error.errno in _UNREACHABLE:
        return UNREACHABLE
    return TIMEOUT if error.errno == errno.ETIMEDOUT else _cut(response)
