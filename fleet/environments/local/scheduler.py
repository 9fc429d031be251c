"""The scheduler of one local cluster: which replica gets which GPUs. Pure state; the control plane acts on it.

It counts GPUs on nodes, binds a replica to the node that it leaves fullest (or to the node asked for), and keeps what
does not fit as Pending with the reason and the numbers. It never starts, stops or waits for anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["Pending", "Scheduled", "Started", "Loading", "Ready", "Failed"]


@dataclass
class NodeState:
    """A node as the scheduler sees it. ``ready``: its agent answered, and its init still lives."""

    name: str
    gpus: int
    ready: bool = False


@dataclass
class ReplicaState:
    """A replica as the API shows it. ``holds``: it takes its GPUs on ``node``, also while it drains."""

    name: str
    model: str
    gpus: int
    priority: int
    wish: str = ""
    node: str = ""
    holds: bool = False
    phase: Phase = "Pending"
    reason: str = ""
    url: str = ""
    leaving: bool = False
    crashes: int = 0


class Scheduler:
    """Nodes and replicas of a cluster, and who holds which GPUs."""

    def __init__(self, nodes: Iterable[NodeState]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.replicas: dict[str, ReplicaState] = {}

    def allocated(self, node: str) -> int:
        """GPUs of ``node`` that replicas hold."""
        return sum(r.gpus for r in self.replicas.values() if r.holds and r.node == node)

    def free(self, node: str) -> int:
        """GPUs of ``node`` that nobody holds; 0 while it is not ready."""
        state = self.nodes[node]
        return state.gpus - self.allocated(node) if state.ready else 0

    def bind_pending(self) -> tuple[list[ReplicaState], list[ReplicaState]]:
        """Binds every Pending replica that fits, important ones first; (bound now, Pending with a new reason)."""
        bound, waiting = [], []
        pending = [r for r in self.replicas.values() if r.phase == "Pending" and not r.leaving]
        for replica in sorted(pending, key=lambda r: -r.priority):
            node = self._node_for(replica)
            if node:
                replica.node, replica.holds, replica.phase, replica.reason = node, True, "Scheduled", ""
                bound.append(replica)
            elif (reason := self._why_not(replica)) != replica.reason:
                replica.reason = reason
                waiting.append(replica)
        return bound, waiting

    def count(self, phase: str) -> int:
        """Replicas in ``phase``."""
        return sum(r.phase == phase for r in self.replicas.values())

    def release(self, replica: ReplicaState) -> None:
        """Its GPUs are free again."""
        replica.holds = False

    def _node_for(self, replica: ReplicaState) -> str:
        if replica.wish and self.free(replica.wish) >= replica.gpus:
            return replica.wish
        fitting = [name for name in self.nodes if self.free(name) >= replica.gpus]
        return min(fitting, key=self.free, default="")

    def _why_not(self, replica: ReplicaState) -> str:
        absent = [node.name for node in self.nodes.values() if not node.ready]
        free = ", ".join(f"{name} {self.free(name)}" for name in self.nodes if name not in absent)
        away = f"; not ready: {', '.join(absent)}" if absent else ""
        return f"needs {replica.gpus} GPU(s) on one node; free: {free or 'none'}{away}"
