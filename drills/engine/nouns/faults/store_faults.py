"""Faults of a weight store, which stands outside every cluster: its egress drops, or what it sends is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from drills.engine.nouns.located import Located
from fleet.protocols import Fleet, StoreControl
from history.errors import FaultError
from history.records import FaultMark, Signal


@dataclass(frozen=True)
class _StoreFault(Located):
    """What both have in common; ``store`` is the name of a weight store of the fleet."""

    store: str

    @property
    def cluster(self) -> str:
        return ""

    @property
    def target(self) -> str:
        return self.store

    def unsupported(self, fleet: Fleet) -> str:
        if isinstance(fleet, StoreControl):
            return ""
        return f"this environment has no control over the weight store {self.store!r}; the environment local has"

    def heal(self, fleet: Fleet) -> None:
        _control(fleet).mend_store(self.store)

    def verify_healed(self, fleet: Fleet) -> tuple[Signal, ...]:
        return _control(fleet).verify_store(self.store, 1.0, corrupt=False)


@dataclass(frozen=True)
class WeightStoreBrownout(_StoreFault):
    """The store's egress drops to ``factor`` of what was declared; it answers, slowly, and 503 past its queue."""

    factor: float = 0.1

    def mark(self, fleet: Fleet | None) -> FaultMark:
        return FaultMark("WeightStoreBrownout", "", "slow", f"egress of {self.store} fell to {self.factor:.0%}")

    def inject(self, fleet: Fleet) -> None:
        _control(fleet).brown_out(self.store, self.factor)

    def verify(self, fleet: Fleet) -> tuple[Signal, ...]:
        return _control(fleet).verify_store(self.store, self.factor, corrupt=False)


@dataclass(frozen=True)
class CorruptWeights(_StoreFault):
    """Every object that the store sends has a wrong byte, until it is mended: the account's copies rotted."""

    def mark(self, fleet: Fleet | None) -> FaultMark:
        return FaultMark("CorruptWeights", "", "corrupt", f"the objects of {self.store} rotted")

    def inject(self, fleet: Fleet) -> None:
        _control(fleet).corrupt(self.store)

    def verify(self, fleet: Fleet) -> tuple[Signal, ...]:
        return _control(fleet).verify_store(self.store, 1.0, corrupt=True)


def _control(fleet: Fleet) -> StoreControl:
    if not isinstance(fleet, StoreControl):
        raise FaultError("this fleet has no control over its weight stores", hint="run `blackstart plan` first")
    return fleet
