"""The gateway's routing table: which replicas exist, which may take a request now, and which one takes the next. Pure.

Cluster watches and health checks write to it, requests read it. A replica is routable from its ready event until it is
removed, drains, is ejected, or fails too many checks in a row; a good check or a new ready event brings it back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from history.clock import NS_PER_S, Clock, now_ns

FIRST_PART: Final = 0.05
"""With this part of its traffic a replica begins its slow start."""

_SPAN: Final = 2**64
SPILL: Final = 8
"""A fine-tune's first owner answers for it until it has this many more requests in flight than the next one."""


@dataclass(eq=False)
class Replica:
    """A replica as the gateway knows it. ``in_flight``: requests that it has from this gateway now."""

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
    urls: dict[str, object] = field(default_factory=dict)
    """The gateway's parsed URL of each path."""

    @property
    def routable(self) -> bool:
        """May it take a request now?"""
        return not (self.ejected or self.draining)


@dataclass(frozen=True)
class Seen:
    """A ready replica as a cluster's listing or ready event describes it."""

    name: str
    model: str
    node: str
    url: str


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

    ``copies``: how many replicas of a pool serve each of its fine-tunes; 1 where it is not named. ``shares``: the part
    (0 to 1) of the traffic a cluster would take that it is given; 1 where it is not named. ``slow_start_s``: the part
    of a replica that became ready grows evenly over this time.
    """

    def __init__(
        self,
        *,
        eject_after: int,
        models: Iterable[str] = (),
        pools: Mapping[str, Collection[str]] | None = None,
        fallbacks: Mapping[str, str] | None = None,
        copies: Mapping[str, int] | None = None,
        slow_start_s: float = 0.0,
        clock: Clock = now_ns,
    ) -> None:
        self._slow_start_s = slow_start_s
        self._clock = clock
        self._eject_after = eject_after
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._by_model: dict[str, list[Replica]] = {}
        self._turn = 0
        self._pool_of = {name: pool for pool, names in (pools or {}).items() for name in names}
        self._fallbacks = dict(fallbacks or {})
        self._copies = dict(copies or {})
        self.shares: dict[str, float] = {}
        self._known = set(models) | set(self._pool_of)

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
        pool = self._pool_of.get(model, "")
        candidates: Sequence[Replica] = self._by_model.get(pool or model, ())
        self._turn += 1
        if self._slow_start_s or any(share < 1 for share in self.shares.values()):
            candidates = self._by_share(model, candidates, bool(pool))
        if pool:
            up = {(r.cluster, r.name): r for r in candidates if r.routable and r not in exclude}
            mine = [up[key] for key in owners(model, list(up), self._copies.get(pool, 1))]
            return min(mine, key=lambda replica: replica.in_flight // SPILL, default=None)
        best: Replica | None = None
        for offset in range(len(candidates)):
            replica = candidates[(self._turn + offset) % len(candidates)]
            if replica.routable and replica not in exclude and (best is None or replica.in_flight < best.in_flight):
                best = replica
        return best

    def weight(self, replica: Replica) -> float:
        """The part of what it could take that it is given, 0 to 1: its cluster's share, and how far it has started."""
        share = self.shares.get(replica.cluster, 1.0)
        age_s = (self._clock() - replica.ready_ns) / NS_PER_S
        if age_s >= self._slow_start_s:
            return share
        return share * (FIRST_PART + (1 - FIRST_PART) * age_s / self._slow_start_s)

    def fallback(self, model: str) -> str | None:
        """The model to use instead of ``model`` when that has no routable replica."""
        return self._fallbacks.get(model) or self._fallbacks.get(self._pool_of.get(model, ""))

    def _by_share(self, model: str, candidates: Sequence[Replica], pool: bool) -> Sequence[Replica]:
        """Those in clusters that take this request: by its turn, or for a fine-tune by its name, so that the same
        ones stay. All of them when nobody else could answer."""
        turn = str(self._turn)
        taking = [
            replica
            for replica in candidates
            if _hash(replica.cluster, model if pool else turn) < self.weight(replica) * _SPAN
        ]
        return taking if any(replica.routable for replica in taking) else candidates

    def ready(self, cluster: str, seen: Seen) -> Replica:
        """A cluster says that this replica is ready now: whatever was held against it is forgotten."""
        replica = self._replicas.get((cluster, seen.name))
        if replica is None or replica.url != seen.url or replica.model != seen.model:
            replica = Replica(cluster, seen.name, seen.model, seen.node, seen.url)
            self._replicas[cluster, seen.name] = replica
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

    def sync(self, cluster: str, listing: Iterable[Seen]) -> None:
        """Makes the cluster's replicas those of its listing; known ones keep their ejection."""
        seen = {item.name: item for item in listing}
        for key in [key for key in self._replicas if key[0] == cluster and key[1] not in seen]:
            self.remove(*key)
        for item in seen.values():
            replica = self._replicas.get((cluster, item.name))
            if replica is None or replica.url != item.url or replica.model != item.model:
                self.ready(cluster, item)

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

    def _reindex(self) -> None:
        self._by_model = {}
        for replica in self.replicas:
            self._by_model.setdefault(replica.model, []).append(replica)
