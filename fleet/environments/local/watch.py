"""Following an event stream from a thread of the harness: list, then watch, stamp on receipt, record every gap.

Used by ``LocalCluster.watch`` and the controller's. It keeps trying while the other side is dead, frozen or cut off,
and never interprets an event.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from fleet.protocols import Emit
from fleet.serving.events import Event, decode_event
from history.clock import Clock, now_ns
from history.op import CONTROLLER, REPLICA_FAILED, UNPLACEABLE, WATCH_GAP, Op

CONNECT_TIMEOUT_S: Final = 0.5
SILENCE_S: Final = 2.5
"""A live stream sends a blank line each second; after this long without one it counts as broken."""

RETRY_S: Final = 0.1
_FAILURES: Final = (REPLICA_FAILED, UNPLACEABLE)


@dataclass(frozen=True)
class Line:
    """What a stream gave: an event, or None for a sign of life; ``opened`` marks the first of a connection."""

    event: Event | None
    opened: bool = False


@dataclass
class _Position:
    """How far a follower has read, and in which life of the other process."""

    after: int = 0
    life: str = ""


class Follower:
    """Follows ``url``/events. ``source`` and ``process`` stand in its ops; ``cluster`` names it in gaps."""

    def __init__(self, url: str, *, source: str, process: str, cluster: str = "", clock: Clock = now_ns) -> None:
        self._url = url
        self._source = source
        self._process = process
        self._cluster = cluster
        self._clock = clock
        self._at = _Position()

    def run(self, emit: Emit, stop: threading.Event) -> None:
        """Emits until ``stop``. A stream that comes back in another life is listed from its beginning."""
        heard_ns = self._clock()
        gap_open = False
        while not stop.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                for line in self._lines(stop):
                    if line.opened and gap_open:
                        emit(self._gap(heard_ns))
                        gap_open = False
                    heard_ns = self._clock()
                    if line.event is not None:
                        emit(self._op(line.event, heard_ns))
            gap_open = True
            stop.wait(RETRY_S)
        if gap_open and self._clock() - heard_ns > int(SILENCE_S * 1e9):
            emit(self._gap(heard_ns))

    def _lines(self, stop: threading.Event) -> Iterator[Line]:
        parts = urlsplit(self._url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(SILENCE_S)
            query = f"after={self._at.after}" + (f"&life={self._at.life}" if self._at.life else "")
            connection.request("GET", f"/events?{query}")
            response = connection.getresponse()
            if response.status != 200:
                raise http.client.HTTPException(f"{self._url}/events answered {response.status}")
            if (life := response.headers.get("x-life", "")) != self._at.life:
                self._at = _Position(0, life)
            yield Line(None, opened=True)
            while not stop.is_set() and (raw := response.readline()):
                yield Line(self._event(raw))
        finally:
            connection.close()

    def _event(self, raw: bytes) -> Event | None:
        if not raw.strip():
            return None
        try:
            event = decode_event(raw)
        except msgspec.MsgspecError:  # the connection was cut inside a line: read on from the last whole one
            raise http.client.HTTPException("damaged line") from None
        self._at.after = event.n
        return event

    def _op(self, event: Event, heard_ns: int) -> Op:
        return Op(
            source=self._source,
            process=self._process,
            kind=event.kind,
            t_intended=event.t_emitted,
            t_done=heard_ns,
            outcome="fail" if event.kind in _FAILURES else "ok",
            model=event.model,
            cluster=event.cluster,
            node=event.node,
            replica=event.replica,
            weights=event.weights,
            detail={**event.detail, "t_emitted": event.t_emitted},
        )

    def _gap(self, heard_ns: int) -> Op:
        return Op(
            source=self._source,
            process=self._process,
            kind=WATCH_GAP,
            t_intended=heard_ns,
            t_done=self._clock(),
            outcome="unknown",
            cluster=self._cluster,
        )


class Allocator:
    """The reference allocator as a ``Controller``; ``url`` is asked for when the watch begins. ``found_up``: it was
    there before this run, and what it did before the watch began belongs to runs before."""

    def __init__(self, url: Callable[[], str], *, found_up: bool = False, clock: Clock = now_ns) -> None:
        self._url = url
        self._found_up = found_up
        self._clock = clock

    def watch(self, emit: Emit, stop: threading.Event) -> None:
        """Emits controller ops, stamped on receipt, until ``stop`` is set."""
        began = self._clock() if self._found_up else 0

        def of_this_run(op: Op) -> None:
            if op.t_intended >= began:
                emit(op)

        Follower(self._url(), source=CONTROLLER, process="observer-controller").run(of_this_run, stop)
