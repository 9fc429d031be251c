"""The node cache's index: which objects are on the node's disk, in use, or must go. Pure: no disk, no network.

The agent asks it before it downloads anything. Content-addressed, least recently used out first, never over its byte
budget: space is taken when an object is admitted, before its first byte arrives; objects in use are never evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.serving.weights import WeightObject


@dataclass
class _Entry:
    bytes: int
    pins: int = 0
    present: bool = False


@dataclass(frozen=True)
class Admission:
    """What ``admit`` did: objects already here, objects to download now, objects whose files to delete now.

    Those neither present nor missing are on their way already, for somebody else.
    """

    present: tuple[WeightObject, ...]
    missing: tuple[WeightObject, ...]
    evicted: tuple[str, ...]


class CacheIndex:
    """Entries in order of last use. Every ``admit`` is undone by one ``release`` of the same objects."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __contains__(self, sha256: str) -> bool:
        entry = self._entries.get(sha256)
        return entry is not None and entry.present

    def admit(self, objects: Sequence[WeightObject]) -> Admission | None:
        """Pins all ``objects``, takes space for those not known; None, and nothing changed, while they do not fit.

        All or nothing: two half-admitted models could wait for each other for ever.
        """
        wanted = {item.sha256: item for item in objects}
        new = [item for sha256, item in wanted.items() if sha256 not in self._entries]
        evicted = self._evictable(self.used_bytes + sum(item.bytes for item in new) - self.budget_bytes, wanted)
        if evicted is None:
            return None
        for sha256 in evicted:
            self._drop(sha256)
        for item in new:
            self._entries[item.sha256] = _Entry(item.bytes)
            self.used_bytes += item.bytes
        for sha256 in wanted:
            self._entries[sha256].pins += 1
            self._entries.move_to_end(sha256)
        present = tuple(item for sha256, item in wanted.items() if self._entries[sha256].present)
        return Admission(present, tuple(new), evicted)

    def arrived(self, sha256: str) -> None:
        """An admitted object is on disk, whole and verified."""
        self._entries[sha256].present = True

    def lost(self, sha256: str) -> None:
        """An object's file is damaged or gone; in use it keeps its space, else it leaves the index."""
        entry = self._entries.get(sha256)
        if entry is not None:
            entry.present = False
            if entry.pins == 0:
                self._drop(sha256)

    def touch(self, sha256: str) -> bool:
        """Marks a use by a peer; False when the object is not here."""
        if sha256 not in self:
            return False
        self._entries.move_to_end(sha256)
        return True

    def release(self, names: Sequence[str]) -> None:
        """Undoes one pin of each; what never arrived and nobody wants any more gives its space back."""
        for sha256 in dict.fromkeys(names):
            entry = self._entries[sha256]
            entry.pins -= 1
            if entry.pins == 0 and not entry.present:
                self._drop(sha256)

    def _evictable(self, excess_bytes: int, wanted: dict[str, WeightObject]) -> tuple[str, ...] | None:
        names = []
        for sha256, entry in self._entries.items():
            if excess_bytes <= 0:
                break
            if entry.pins == 0 and sha256 not in wanted:
                names.append(sha256)
                excess_bytes -= entry.bytes
        return None if excess_bytes > 0 else tuple(names)

    def _drop(self, sha256: str) -> None:
        self.used_bytes -= self._entries.pop(sha256).bytes
