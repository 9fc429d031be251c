"""``Replicas``: the replicas of one cluster as the adapter knows them: from pods seen, wishes made, words of servers.

Pure state, used from one event loop. It turns looks at pods into events and rows; it never asks anybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fleet.environments.kind.kubernetes.pods import GONE, PENDING, STARTED, Pod, events
from history.op import REPLICA_GONE

Event = dict[str, Any]
"""Arguments of ``EventLog.append`` but its stamp."""


@dataclass(frozen=True)
class Row:
    """A replica as GET /replicas lists it."""

    name: str
    model: str
    gpus: int
    node: str = ""
    phase: str = PENDING
    reason: str = ""
    url: str = ""
    hint: str = ""


@dataclass
class Replicas:
    """See the module docstring."""

    cluster: str
    _pods: dict[str, Pod] = field(default_factory=dict)
    _wishes: dict[str, Row] = field(default_factory=dict)
    _words: dict[str, tuple[str, str]] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)

    def listed(self, pods: Iterable[Pod]) -> list[Event]:
        """Everything there is, as a new story from its beginning; who was asked for before is to be asked for again."""
        self._pods, self._wishes, self._words, self._left = {}, {}, {}, set()
        return [event for pod in pods for event in self.seen(pod, deleted=False)]

    def seen(self, pod: Pod, deleted: bool) -> list[Event]:
        """One look at a pod -> what happened."""
        before = self._pods.get(pod.uid)
        if deleted:
            self._pods.pop(pod.uid, None)
            self._words.pop(pod.replica, None)
            was_gone = before is None or before.phase == GONE or pod.uid in self._left
            return [] if was_gone else [self._event(REPLICA_GONE, pod, {})]
        self._pods[pod.uid] = pod
        self._wishes.pop(pod.replica, None)
        found = events(before, pod)
        if pod.uid in self._left:  # who deleted it said so already
            found = ()
        return [self._event(kind, pod, detail) for kind, detail in found]

    def wanted(self, row: Row) -> Row:
        """A Deployment was made: it is listed before its first pod is seen."""
        if all(pod.replica != row.name for pod in self._living()):
            self._wishes[row.name] = row
        return row

    def leave(self, name: str) -> Event | None:
        """A replica is deleted: gone for everybody at once. None when it is not known."""
        self._wishes.pop(name, None)
        pods = [pod for pod in self._living() if pod.replica == name]
        self._left |= {pod.uid for pod in pods}
        return self._event(REPLICA_GONE, pods[-1], {}) if pods else None

    def told(self, name: str, phase: str, reason: str) -> Row | None:
        """A server's own word; its row, None when it is not known."""
        self._words[name] = (phase, reason)
        return next((row for row in self.rows() if row.name == name), None)

    def rows(self) -> list[Row]:
        """All replicas but those that are ending."""
        found: dict[str, Row] = dict(self._wishes)
        for pod in sorted(self._living(), key=lambda pod: pod.created):
            row = Row(pod.replica, pod.model, pod.gpus, pod.node, pod.phase, pod.reason, pod.url, pod.hint)
            phase, reason = self._words.get(pod.replica, ("", ""))
            if pod.phase == STARTED and phase in ("Loading", "Failed"):
                row = replace(row, phase=phase, reason=reason)
            found[pod.replica] = row
        return list(found.values())

    def held(self, node: str) -> int:
        """GPUs of a node that pods hold, ending ones too, and those that were asked for with it in mind."""
        bound = sum(pod.gpus for pod in self._pods.values() if (pod.node or pod.hint) == node)
        return bound + sum(row.gpus for row in self._wishes.values() if row.hint == node)

    def count(self, phase: str) -> int:
        """Replicas in a phase."""
        return sum(row.phase == phase for row in self.rows())

    def ports(self) -> set[int]:
        """Ports in use."""
        return {int(pod.url.rsplit(":", 1)[1]) for pod in self._pods.values() if pod.url}

    def _living(self) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.phase != GONE and pod.uid not in self._left]

    def _event(self, kind: str, pod: Pod, detail: dict[str, Any]) -> Event:
        return {
            "kind": kind,
            "model": pod.model,
            "cluster": self.cluster,
            "node": pod.node,
            "replica": pod.replica,
            "detail": detail,
        }
