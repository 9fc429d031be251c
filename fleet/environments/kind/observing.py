"""Looks at pods as ops for the history: stamped on receipt, gaps recorded, a story that begins anew after each.

Used by ``KindCluster.watch``. It never asks anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fleet.environments.kind.kubernetes.pods import GONE, Pod, events
from fleet.protocols import Emit
from history.clock import Clock, now_ns
from history.op import OBSERVER, REPLICA_FAILED, REPLICA_GONE, REPLICA_WEIGHTS, WATCH_GAP, Op


class PodOps:
    """Takes looks of a ``PodWatch``, emits ops. Pods that were there before a gap and in the same life of their node
    go on from where they were; after their node began anew, so does their story."""

    def __init__(self, cluster: str, process: str, emit: Emit, clock: Clock = now_ns) -> None:
        self._cluster, self._process, self._emit, self._clock = cluster, process, emit, clock
        self._pods: dict[str, Pod] = {}
        self._boots: dict[str, float] = {}
        self._cut = False

    def listed(self, pods: tuple[Pod, ...], boots: Mapping[str, float], heard_ns: int, gap_ns: int | None) -> None:
        """See ``watch.Taker``."""
        if gap_ns is not None:
            self._gap(gap_ns, heard_ns)
        self._cut = False
        if self._boots != boots:
            self._pods = {}
        self._boots = dict(boots)
        here = {pod.uid for pod in pods}
        for uid in [uid for uid in self._pods if uid not in here]:
            self.seen(self._pods[uid], True, heard_ns)
        for pod in pods:
            self.seen(pod, False, heard_ns)

    def seen(self, pod: Pod, deleted: bool, heard_ns: int) -> None:
        """See ``watch.Taker``."""
        before = self._pods.get(pod.uid)
        if deleted:
            self._pods.pop(pod.uid, None)
            if before is not None and before.phase != GONE:
                self._op(REPLICA_GONE, pod, {}, heard_ns)
            return
        self._pods[pod.uid] = pod
        for kind, detail in events(before, pod):
            self._op(kind, pod, detail, heard_ns)

    def lost(self) -> None:
        """See ``watch.Taker``: the gap is recorded when it ends."""
        self._cut = True

    def end(self, heard_ns: int) -> None:
        """The watch was told to stop: a gap that is open is recorded."""
        if self._cut and heard_ns:
            self._gap(heard_ns, self._clock())

    def _gap(self, since_ns: int, until_ns: int) -> None:
        self._emit(
            Op(
                source=OBSERVER,
                process=self._process,
                kind=WATCH_GAP,
                t_intended=since_ns,
                t_done=until_ns,
                outcome="unknown",
                cluster=self._cluster,
            )
        )

    def _op(self, kind: str, pod: Pod, detail: dict[str, object], heard_ns: int) -> None:
        self._emit(
            Op(
                source=OBSERVER,
                process=self._process,
                kind=kind,
                t_intended=heard_ns,
                t_done=heard_ns,
                outcome="fail" if kind == REPLICA_FAILED else "ok",
                model=pod.model,
                cluster=self._cluster,
                node=pod.node,
                replica=pod.replica,
                detail=detail,
            )
        )


def only_weights(emit: Emit) -> Callable[[Op], None]:
    """Passes on where weights came from; all else of a replica is said by Kubernetes."""

    def take(op: Op) -> None:
        if op.kind == REPLICA_WEIGHTS:
            emit(op)

    return take
