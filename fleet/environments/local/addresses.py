"""Addresses of a local fleet: each cluster on loopback addresses of its own, so that fleets can run side by side.

    127.F.0.1            the services outside every cluster       F: this fleet's number, 64 to 250
    127.F.C.250          control plane of cluster number C        C: 1, 2, 3, …
    127.F.C.N            node number N of it: agent, replicas

Where the system has only 127.0.0.1 (macOS), everything is there, on ports of its own. Ports come from the kernel.
Called by ``LocalFleet``; binds only to look, and holds one lock port so that no other fleet takes the same F.
"""

from __future__ import annotations

import errno
import random
import socket
from dataclasses import dataclass
from typing import Final

import psutil

from history.errors import FleetError

PLAIN: Final = "127.0.0.1"
LOCK_PORT: Final = 21994
_FLEETS: Final = range(64, 251)
CONTROL_HOST: Final = 250


@dataclass(frozen=True)
class Addresses:
    """Which loopback addresses this fleet uses. ``number`` 0: only 127.0.0.1. ``lock`` is held while it runs."""

    number: int
    lock: socket.socket | None

    @property
    def private(self) -> bool:
        """Has every cluster addresses of its own?"""
        return self.number > 0

    @property
    def outside(self) -> str:
        """The address of gateway, allocator, stores and Prometheus."""
        return f"127.{self.number}.0.1" if self.private else PLAIN

    def control(self, cluster: int) -> str:
        """The address of a control plane; clusters count from 1."""
        return f"127.{self.number}.{cluster}.{CONTROL_HOST}" if self.private else PLAIN

    def node(self, cluster: int, node: int) -> str:
        """The address of a node; nodes count from 1."""
        return f"127.{self.number}.{cluster}.{node}" if self.private else PLAIN

    def network(self, cluster: int) -> str:
        """All addresses of a cluster in CIDR notation; "" where it has none of its own."""
        return f"127.{self.number}.{cluster}.0/24" if self.private else ""

    def release(self) -> None:
        """Lets another fleet take the number."""
        if self.lock is not None:
            self.lock.close()


def reserve(rng: random.Random | None = None) -> Addresses:
    """Takes the first free fleet number from a random start; 127.0.0.1 alone where nothing else can be bound."""
    numbers = list(_FLEETS)
    start = (rng or random.SystemRandom()).randrange(len(numbers))
    for number in numbers[start:] + numbers[:start]:
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind((f"127.{number}.255.1", LOCK_PORT))
        except OSError as error:
            lock.close()
            if error.errno == errno.EADDRINUSE:
                continue
            break  # the system has no such address: no other number will do either
        return Addresses(number, lock)
    return Addresses(0, None)


def private_possible() -> bool:
    """Can this system give clusters addresses of their own? Binds one and lets go."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.63.255.1", 0))
        except OSError:
            return False
        return True


class Ports:
    """Gives ports that nobody uses now, none twice."""

    def __init__(self) -> None:
        self._given: set[tuple[str, int]] = set()

    def take(self, host: str) -> int:
        """A free port of ``host``."""
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind((host, 0))
                port: int = probe.getsockname()[1]
            if (host, port) not in self._given:
                self._given.add((host, port))
                return port


def require_free(host: str, port: int) -> None:
    """``FleetError`` with address, port and, where psutil can tell, who holds it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FleetError(
                f"the gateway cannot listen on {host}:{port}: {error.strerror}{_holder(port)}",
                hint="end that process, choose another gateway port, or give none and a free one is taken",
            ) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"; held by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return "; this user may not see which process holds it"
