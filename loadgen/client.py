"""``Client``: one measured request over gevent sockets, one op. Called by ``sender.py``, a greenlet a request.

Never retries: what the first attempt met is what is recorded. A failed exchange closes its connection, whatever the
failure was, and connections are kept alive otherwise.

Sockets are gevent's, HTTP is parsed by geventhttpclient's ``HTTPResponse`` (llhttp, in C). Its ``HTTPClient`` is not
used: it sends again when a pooled connection broke, its network time-out is per read instead of total, and it blocks
on a semaphore when its pool is used up, which would close the loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NoReturn

import gevent
import gevent.socket
from geventhttpclient.response import HTTPParseError, HTTPResponse

from history.clock import NS_PER_S, Clock, now_ns
from history.errors import UsageError
from history.op import (
    BAD_BODY,
    CONNECT_TIMEOUT,
    CUT,
    DROPPED,
    LOAD,
    NEVER,
    NOT_DRAINED,
    REFUSED,
    RESET,
    TIMEOUT,
    UNREACHABLE,
    Op,
)
from history.records import LoadSpec, Mix, Target
from loadgen.exchange import MAX_BODY_BYTES, PATHS, Answer, answer_to, request_body, tokens_expected
from loadgen.pool import Connection, Pool

_BLOCK_BYTES = 65_536
_SAID_BYTES = 200
_OWN_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN})


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


class Client:
    """Sends requests of a mix to a target and turns each into an op. Not for use from several threads."""

    def __init__(
        self,
        target: Target,
        mix: Mix,
        load: LoadSpec,
        process: str,
        *,
        environ: Callable[[str], str | None] = os.environ.get,
        clock: Clock = now_ns,
    ) -> None:
        token = environ(target.auth_env) if target.auth_env else None
        if target.auth_env and not token:
            raise UsageError(
                f"the target's token is read from ${target.auth_env}, which is empty",
                hint=f"export {target.auth_env}=…",
            )
        self._entries = mix.entries
        self._process = process
        self._clock = clock
        self._connect_s = load.connect_timeout_s
        self._total_s = load.total_timeout_s
        pools = {url: Pool(url, clock) for url in {target.url_of(ask.model) for ask in mix.entries}}
        self._pools = tuple(pools[target.url_of(ask.model)] for ask in mix.entries)
        self._head = "User-Agent: blackstart\r\nContent-Type: application/json\r\n"
        self._head += f"Authorization: Bearer {token}\r\n" if token else ""

    def close(self) -> None:
        """Closes idle connections."""
        for pool in self._pools:
            pool.close()

    def unknown(self, seq: int, entry: int, t_intended: int, error: str, why: str = "", *, t_sent: int = NEVER) -> Op:
        """The op of a send that never went out (``DROPPED``) or whose end nobody saw (``NOT_DRAINED``)."""
        ask = self._entries[entry]
        return Op(
            source=LOAD,
            process=self._process,
            kind=ask.kind,
            t_intended=t_intended,
            outcome="unknown",
            seq=seq,
            model=ask.model,
            error=error,
            tokens_expected=tokens_expected(ask),
            t_sent=t_sent,
            detail={"why": why} if why else {},
        )

    def send(self, seq: int, entry: int, t_intended: int) -> Op:
        """Sends once and waits for the end of the answer, at most the total time-out from now. Never raises OSError.

        Killed meanwhile (the drain is over), it returns the unknown op all the same.
        """
        ask, t_sent = self._entries[entry], self._clock()
        answer, response = answer_to(ask), _Response()
        error, said = "", ""
        try:
            self._exchange(self._pools[entry], self._request(entry, seq), t_sent, answer, response)
        except _Failed as failure:
            error, said = failure.error, failure.said
        except gevent.GreenletExit:
            return self.unknown(seq, entry, t_intended, NOT_DRAINED, t_sent=t_sent)
        t_done = self._clock()
        if error == DROPPED:
            return self.unknown(seq, entry, t_intended, DROPPED, said)
        cluster, node, replica = (*response.header("x-served-by").split("/"), "", "", "")[:3]
        return Op(
            source=LOAD,
            process=self._process,
            kind=ask.kind,
            t_intended=t_intended,
            outcome="fail" if error else "ok",
            t_sent=t_sent,
            t_first_byte=answer.t_first_byte,
            t_done=t_done,
            seq=seq,
            model=ask.model,
            cluster=cluster,
            node=node,
            replica=replica,
            error=error,
            status=response.status,
            weights=response.header("x-weights"),
            fallback=response.header("x-fallback"),
            tokens_expected=tokens_expected(ask),
            tokens=answer.tokens,
            detail={"said": said} if said else {},
        )

    def _exchange(self, pool: Pool, request: bytes, t_sent: int, answer: Answer, response: _Response) -> None:
        connection = pool.reuse() or self._connect(pool)
        limit = gevent.Timeout(max(self._total_s - (self._clock() - t_sent) / NS_PER_S, 0.0))
        limit.start()
        try:
            self._talk(connection, request, answer, response)
        except _Failed as failure:
            _give_up(pool, connection, failure.broken)
            raise
        except gevent.Timeout as timeout:
            _give_up(pool, connection, broken=True)
            if timeout is not limit:
                raise
            raise _Failed(TIMEOUT) from None
        except OSError as error:
            _give_up(pool, connection, broken=True)
            raise _Failed(_category(error, response), said=str(error)) from None
        except BaseException:  # killed at the end of the drain
            _give_up(pool, connection, broken=True)
            raise
        finally:
            limit.close()
        if response.should_close():
            connection.socket.close()
        else:
            pool.keep(connection)

    def _connect(self, pool: Pool) -> Connection:
        """A new connection within the connect time-out (which the total one does not exceed)."""
        limit = gevent.Timeout(min(self._connect_s, self._total_s))
        limit.start()
        try:
            return pool.connect()
        except gevent.Timeout as timeout:
            if timeout is not limit:
                raise
            pool.broken(None)
            raise _Failed(CONNECT_TIMEOUT) from None
        except OSError as error:
            _refuse(error, pool)
        finally:
            limit.close()

    def _talk(self, connection: Connection, request: bytes, answer: Answer, response: _Response) -> None:
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
            if status and status != 200:
                raise _Failed(f"http-{status}", broken=False, said=body[:_SAID_BYTES].decode("utf-8", "replace"))
            if body:
                answer.feed(body, now)
            if not data and not response.message_complete:
                raise _Failed(_cut(response))
            if received > MAX_BODY_BYTES:
                raise _Failed(BAD_BODY, said=f"more than {MAX_BODY_BYTES} bytes")
        if wrong := answer.error():
            raise _Failed(wrong)

    def _request(self, entry: int, seq: int) -> bytes:
        ask, pool = self._entries[entry], self._pools[entry]
        body = request_body(ask, seq)
        head = (
            f"POST {pool.path}{PATHS[ask.kind]} HTTP/1.1\r\nHost: {pool.netloc}\r\n"
            f"{self._head}Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body


def _give_up(pool: Pool, connection: Connection, broken: bool) -> None:
    """Closes the connection; a broken one makes the pool's idle ones obsolete too."""
    if broken:
        pool.broken(connection)
    else:
        pool.discard(connection)


def _cut(response: _Response) -> str:
    """The peer ended the connection: before its answer began (reset) or inside it (cut)."""
    return CUT if response.status else RESET


def _category(error: OSError, response: _Response) -> str:
    if error.errno in _UNREACHABLE:
        return UNREACHABLE
    return TIMEOUT if error.errno == errno.ETIMEDOUT else _cut(response)


def _refuse(error: OSError, pool: Pool) -> NoReturn:
    """Turns a failed connect into its category. This machine's own limits are no failure of the target."""
    if error.errno in _OWN_FAULT:
        raise _Failed(DROPPED, said=str(error)) from None
    pool.broken(None)
    if error.errno == errno.ECONNREFUSED:
        raise _Failed(REFUSED) from None
    if error.errno == errno.ETIMEDOUT:
        raise _Failed(CONNECT_TIMEOUT, said=str(error)) from None
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        raise _Failed(RESET) from None
    raise _Failed(UNREACHABLE, said=str(error)) from None
