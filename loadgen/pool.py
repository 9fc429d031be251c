"""``Pool``: the load's connections to one address, made by ``client.py`` and used by nobody else.

Never retries, never limits the number of connections (the loop is open) and never resolves a failure: a connection
that broke makes every older one obsolete, so pooled connections neither hide nor fake a failover.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from urllib.parse import urlsplit

import gevent.socket
import gevent.ssl

from history.clock import NS_PER_S, Clock
from history.errors import UsageError

IDLE_S = 4.0
"""An idle connection older than this is not used again; servers close theirs after 5 s or more."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class Connection:
    socket: gevent.socket.socket
    epoch: int
    idle_since_ns: int = 0


class Pool:
    """Idle connections to one address, the youngest first. A failure anywhere makes all older ones obsolete.

    ``keep`` False: every connection is used once. ``verify`` False: whoever answers, by whatever certificate.
    """

    def __init__(self, url: str, clock: Clock, *, keep: bool = True, verify: bool = True) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(
                f"entry URL {url!r} is not an http:// or https:// URL", hint="for example http://127.0.0.1:8080"
            )
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._parts, self._keep = parts, keep
        self._tls = _context(verify) if parts.scheme == "https" else None
        self._clock = clock
        self._idle: list[Connection] = []
        self._epoch = 0

    def head(self, method: str, path: str = "") -> str:
        """The first lines of a request for this address's own path and ``path``."""
        parts = self._parts
        where = (parts.path.rstrip("/") + path if path else parts.path or "/") + (
            f"?{parts.query}" if parts.query else ""
        )
        keep = "" if self._keep else "Connection: close\r\n"
        host = parts.netloc.rpartition("@")[2]
        return f"{method} {where} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: blackstart\r\n{keep}"

    def reuse(self) -> Connection | None:
        """An idle connection that is young, of the present epoch and not closed by the peer; None without one."""
        oldest_ns = self._clock() - int(IDLE_S * NS_PER_S)
        while self._idle:
            connection = self._idle.pop()
            if connection.epoch == self._epoch and connection.idle_since_ns >= oldest_ns and _quiet(connection.socket):
                return connection
            connection.socket.close()
        return None

    def connect(self) -> Connection:
        """A new connection; OSError as the system reports it. Time is the caller's to limit."""
        epoch = self._epoch
        socket = gevent.socket.create_connection((self.host, self.port))
        try:
            socket.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            if self._tls is not None:
                socket = self._tls.wrap_socket(socket, server_hostname=self.host, do_handshake_on_connect=False)
                socket.do_handshake()  # not while it is wrapped: one that is cut short would not be closed
        except BaseException:
            socket.close()
            raise
        return Connection(socket, epoch)

    def keep(self, connection: Connection) -> None:
        """Takes a connection back after a complete exchange."""
        if not self._keep:
            connection.socket.close()
            return
        connection.idle_since_ns = self._clock()
        self._idle.append(connection)

    def broken(self) -> None:
        """A connection failed, or could not be made: nothing made before this moment is used again."""
        self._epoch += 1

    def discard(self, connection: Connection, *, broken: bool) -> None:
        """Closes with a reset: thousands of failures must not use up the local ports (TIME_WAIT)."""
        if broken:
            self.broken()
        with contextlib.suppress(OSError):  # already gone
            connection.socket.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, _RESET_ON_CLOSE)
        connection.socket.close()

    def close(self) -> None:
        """Closes the idle connections."""
        while self._idle:
            self._idle.pop().socket.close()


def _context(verify: bool) -> gevent.ssl.SSLContext:
    """gevent's own: ``gevent.ssl.create_default_context`` makes the standard library's, whose handshake with a frozen
    host stops the whole process."""
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    if verify:
        context.load_default_certs()
    else:
        context.check_hostname, context.verify_mode = False, gevent.ssl.CERT_NONE
    return context


def _quiet(socket: gevent.socket.socket) -> bool:
    """Nothing to read on an idle connection: the peer neither closed it nor sent what nobody asked for."""
    socket.settimeout(0.0)
    try:
        socket.recv(1)  # whatever comes makes the connection unfit, so it need not be put back
    except (BlockingIOError, gevent.ssl.SSLWantReadError):
        socket.settimeout(None)
        return True
    except OSError:
        return False
    return False
