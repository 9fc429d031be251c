"""The gateway's routing table: which replicas exist, which may take a request now, and which one takes the next. Pure.

Cluster watches and health checks write to it, requests read it. A replica is routable from its ready event until it is
removed, drains, is ejected, or fails too many checks in a row; a good check or a new ready event brings it back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from fleet.spec import ModelSpec
from history.clock import NS_PER_S, Clock, now_ns

FIRST_PART: Final = 0.05
"""With this part of its traffic a replica begins its slow start."""

_SPAN: Final = 2**64
SPILL: Final = 8
"""A fine-tune's first owner answers for it until it has this many more requests in flight than the next one."""


@dataclass(eq=False)
class Replica:
    """A replica that its cluster calls ready. ``in_flight``: requests that it has from this gateway now."""

    cluster: str
    name: str
    model: str
    node: str
    url: str
    in_flight: int = 0
    ready_ns: int = 0
    failures: int = 0
    ejected: bool = False
    draining: bool = False

    @property
    def routable(self) -> bool:
        """May it take a request now?"""
        return not (self.ejected or self.draining)


def owners(fine_tune: str, replicas: Sequence[tuple[str, str]], copies: int) -> tuple[tuple[str, str], ...]:
    """Which ``copies`` of ``replicas``, each (cluster, name), serve a fine-tune: the highest random weight (Thaler and
    Ravishankar 1998), in different clusters as long as there are any. When a replica comes or goes, only its own
    fine-tunes move, so the caches of the others stay good."""
    left = sorted(replicas, key=lambda r: _hash(fine_tune, *r), reverse=True)
    chosen: list[tuple[str, str]] = []
    while left and len(chosen) < copies:
        used = {cluster for cluster, _ in chosen}
        best = next((r for r in left if r[0] not in used), left[0])
        chosen.append(best)
        left.remove(best)
    return tuple(chosen)


def _hash(*words: str) -> int:
    return int.from_bytes(blake2b("/".join(words).encode(), digest_size=8).digest())


class Routes:
    """All replicas of all clusters. ``eject_after``: failed checks or read time-outs in a row.

    ``models`` exist even before a replica of them was seen. ``shares``: the part (0 to 1) of the traffic a cluster
    would take that it is given; 1 where it is not named. ``slow_start_s``: the part of a replica that became ready
    grows evenly over this time.
    """

    def __init__(
        self,
        models: Iterable[ModelSpec] = (),
        *,
        eject_after: int,
        slow_start_s: float = 0.0,
        clock: Clock = now_ns,
    ) -> None:
        self._slow_start_s = slow_start_s
        self._clock = clock
        self._eject_after = eject_after
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._by_model: dict[str, list[Replica]] = {}
        self._turn = 0
        self._models = {name: model for model in models for name in (model.name, *model.pool)}
        self.shares: dict[str, float] = {}
        self._known = set(self._models)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Every replica, in order of cluster and name."""
        return tuple(self._replicas[key] for key in sorted(self._replicas))

    @property
    def models(self) -> tuple[str, ...]:
        """Every model name that was ever known, sorted."""
        return tuple(sorted(self._known))

    def known(self, model: str) -> bool:
        """Is this a model at all (served now or not)?"""
        return model in self._known

    def get(self, cluster: str, name: str) -> Replica | None:
        """The replica of that name."""
        return self._replicas.get((cluster, name))

    def choose(self, model: str, exclude: Collection[Replica] = ()) -> Replica | None:
        """The routable replica with the fewest requests in flight; equals take turns. A fine-tune has owners."""
        spec = self._models.get(model)
        name = spec.name if spec else model
        fine_tune = name != model
        candidates: Sequence[Replica] = self._by_model.get(name, ())
        self._turn += 1
        if self._slow_start_s or any(share < 1 for share in self.shares.values()):
            candidates = self._by_share(model if fine_tune else str(self._turn), candidates)
        at = self._turn % max(1, len(candidates))
        up = [r for r in (*candidates[at:], *candidates[:at]) if r.routable and r not in exclude]
        if spec is None or not fine_tune:
            return min(up, key=lambda replica: replica.in_flight, default=None)
        by_key = {(r.cluster, r.name): r for r in up}
        mine = [by_key[key] for key in owners(model, list(by_key), spec.copies)]
        return min(mine, key=lambda replica: replica.in_flight // SPILL, default=None)

    def weight(self, replica: Replica) -> float:
        """The part of what it could take that it is given, 0 to 1: its cluster's share, and how far it has started."""
        share = self.shares.get(replica.cluster, 1.0)
        age_s = (self._clock() - replica.ready_ns) / NS_PER_S
        if age_s >= self._slow_start_s:
            return share
        return share * (FIRST_PART + (1 - FIRST_PART) * age_s / self._slow_start_s)

    def fallback(self, model: str) -> str:
        """The model to use instead of ``model`` when that has no routable replica; "" = none."""
        spec = self._models.get(model)
        return spec.fallback if spec else ""

    def _by_share(self, request: str, candidates: Sequence[Replica]) -> Sequence[Replica]:
        """Those in clusters that take this ``request``: its turn, or for a fine-tune its name, so that the same ones
        stay. All of them when nobody else could answer."""
        taking = [replica for replica in candidates if _hash(replica.cluster, request) < self.weight(replica) * _SPAN]
        return taking if any(replica.routable for replica in taking) else candidates

    def ready(self, seen: Replica) -> Replica:
        """A cluster says that this replica is ready now: whatever was held against it is forgotten."""
        replica = self._known_as(seen)
        if replica is None:
            replica = self._replicas[seen.cluster, seen.name] = seen
            self._reindex()
        replica.failures, replica.ejected, replica.draining = 0, False, False
        replica.ready_ns = self._clock()
        self._known.add(seen.model)
        return replica

    def remove(self, cluster: str, name: str) -> Replica | None:
        """It is gone, failed, or loads again."""
        replica = self._replicas.pop((cluster, name), None)
        if replica is not None:
            replica.draining = True  # for whoever still holds it
            self._reindex()
        return replica

    def sync(self, cluster: str, listing: Sequence[Replica]) -> None:
        """Makes the cluster's replicas those of its listing; known ones keep their ejection."""
        names = {seen.name for seen in listing}
        for key in [key for key in self._replicas if key[0] == cluster and key[1] not in names]:
            self.remove(*key)
        for seen in listing:
            if self._known_as(seen) is None:
                self.ready(seen)

    def eject(self, replica: Replica) -> None:
        """No more requests until its next good check or ready event."""
        replica.ejected = True

    def failed(self, replica: Replica) -> None:
        """A check or a request timed out; enough of them in a row eject."""
        replica.failures += 1
        if replica.failures >= self._eject_after:
            replica.ejected = True

    def succeeded(self, replica: Replica) -> None:
        """A check went well."""
        replica.failures, replica.ejected = 0, False

    def _known_as(self, seen: Replica) -> Replica | None:
        """The replica that this one is; None when another had its name."""
        replica = self._replicas.get((seen.cluster, seen.name))
        same = replica is not None and (replica.url, replica.model) == (seen.url, seen.model)
        return replica if same else None

    def _reindex(self) -> None:
        self._by_model = {}
        for replica in self.replicas:
            self._by_model.setdefault(replica.model, []).append(replica)
