"""``PodWatch``: the pods of one cluster: list, then watch, each look stamped on receipt, every gap known.

Used by ``KindCluster.watch`` (its looks become ops) and by the adapter (its looks become the cluster API's answers).
After three seconds of silence it opens the watch again from where it was, which loses nothing; only when that fails is
there a gap, and after it everything is listed anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from fleet.environments.kind.kubernetes.client import Api, Refused
from fleet.environments.kind.kubernetes.pods import Pod, pod_of
from fleet.environments.kind.topology import NAMESPACE, REPLICA_LABEL
from history.clock import Clock, now_ns
from history.errors import FleetError

SILENCE_S: Final = 3.0
RETRY_S: Final = 0.3
PATH: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
GONE_STATUS: Final = 410


@dataclass(frozen=True)
class Sight:
    """What a watch needs to look at a cluster: its API, its nodes' names, and when each node's life began."""

    api: Api
    node_names: Mapping[str, str]
    boots: Mapping[str, float]


class Taker(Protocol):
    """Who is told. All calls come from the watch's thread."""

    def listed(self, pods: tuple[Pod, ...], boots: Mapping[str, float], heard_ns: int, gap_ns: int | None) -> None:
        """Everything there is, after connecting; ``gap_ns``: since when it was cut off, None at the first time."""
        ...

    def seen(self, pod: Pod, deleted: bool, heard_ns: int) -> None:
        """A pod changed, or (``deleted``) is there no more."""
        ...

    def lost(self) -> None:
        """The cluster does not answer any more."""
        ...


class PodWatch:
    """``look`` is called before each listing: addresses and lives of nodes change when a cluster was down."""

    def __init__(self, look: Callable[[], Sight], clock: Clock = now_ns) -> None:
        self._look = look
        self._clock = clock
        self.heard_ns = 0
        """When the cluster was last known to answer."""

    def run(self, taker: Taker, stop: threading.Event) -> None:
        """Tells ``taker`` until ``stop``."""
        connected = False
        first = True
        while not stop.is_set():
            try:
                sight = self._look()
                listing = sight.api.get(PATH, labelSelector=REPLICA_LABEL)
                pods = tuple(pod_of(raw, sight.node_names, sight.boots) for raw in listing["items"])
                now = self._clock()
                taker.listed(pods, sight.boots, now, None if first else self.heard_ns)
                self.heard_ns, connected, first = now, True, False
                self._follow(sight, listing["metadata"]["resourceVersion"], taker, stop)
            except FleetError:
                pass
            if connected and not stop.is_set():
                taker.lost()
                connected = False
            stop.wait(RETRY_S)

    def _follow(self, sight: Sight, version: str, taker: Taker, stop: threading.Event) -> None:
        """Watches from ``version`` on; returns or raises when that cannot go on without a gap."""
        while not stop.is_set():
            query = {"labelSelector": REPLICA_LABEL, "resourceVersion": version, "allowWatchBookmarks": "true"}
            with sight.api.stream(PATH, SILENCE_S, query) as changes:
                self.heard_ns = self._clock()
                try:
                    for change in changes:
                        if stop.is_set():
                            return
                        if change["type"] == "ERROR":
                            raise Refused(str(change["object"].get("message", "")), GONE_STATUS)
                        self.heard_ns = self._clock()
                        version = change["object"]["metadata"]["resourceVersion"]
                        if change["type"] != "BOOKMARK":
                            pod = pod_of(change["object"], sight.node_names, sight.boots)
                            taker.seen(pod, change["type"] == "DELETED", self.heard_ns)
                except TimeoutError:
                    continue
                return  # the other side closed
