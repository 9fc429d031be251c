"""Injecting and healing when the recording fails: the record may be lost, the cluster must not stay hurt."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from drills.engine.nouns import PowerLoss
from drills.engine.runner.injector import Injector
from history.clock import NS_PER_S
from history.errors import FleetError, RecordingError
from history.op import FAULT_HEAL, FAULT_HEALED, FAULT_INJECT, FAULT_VERIFIED


class Victim:
    """A cluster that notes what was done to it."""

    name = "cobalt"
    signatures = ("refused",)

    def __init__(self, breaks: bool = False) -> None:
        self.done: list[str] = []
        self.breaks = breaks
        self.raises: BaseException | None = None
        """By the next look whether the power is on."""

    def power_off(self, signature: str) -> None:
        self.done.append("off")
        if self.breaks:
            raise KeyboardInterrupt

    def verify_power_off(self) -> tuple[()]:
        return ()

    def power_on(self) -> None:
        self.done.append("on")

    def verify_power_on(self) -> tuple[()]:
        raised, self.raises = self.raises, None
        if raised is not None:
            raise raised
        return ()


class Disk:
    """A recorder whose disk is full for one kind of event."""

    def __init__(self, full_for: str = "") -> None:
        self.full_for = full_for
        self.events: list[tuple[str, bool]] = []
        self.took_s: list[float] = []
        """Of each verification."""
        self._now = 0

    def clock(self) -> int:
        self._now += NS_PER_S
        return self._now

    def event(self, kind: str, /, *, ok: bool = True, **rest: Any) -> None:
        if kind == self.full_for:
            raise RecordingError("no space left", hint="free space")
        self.events.append((kind, ok))
        if kind in (FAULT_VERIFIED, FAULT_HEALED):
            self.took_s.append((rest["done_ns"] - rest["at_ns"]) / NS_PER_S)


class Nobody:
    """Custody that keeps nothing."""

    def injection(self, *_: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: None


def injector(victim: Victim, disk: Disk) -> Injector:
    fleet: Any = type("Fleet", (), {"clusters": (victim,)})()
    recorder: Any = disk
    custody: Any = Nobody()
    return Injector(fleet, recorder, custody)


def test_a_full_disk_does_not_keep_the_cluster_down() -> None:
    victim, disk = Victim(), Disk(full_for=FAULT_HEAL)
    made = injector(victim, disk)
    made.inject(PowerLoss("cobalt"), lambda: None)
    with pytest.raises(RecordingError):
        made.heal("cobalt")
    assert victim.done == ["off", "on"]


def test_an_interrupt_in_the_middle_of_the_kill_is_recorded_and_healed() -> None:
    victim, disk = Victim(breaks=True), Disk()
    made = injector(victim, disk)
    with pytest.raises(KeyboardInterrupt):
        made.inject(PowerLoss("cobalt"), lambda: None)
    assert (FAULT_INJECT, False) in disk.events
    assert made.hurt == ("cobalt",)
    made.heal("cobalt")
    assert victim.done == ["off", "on"]


def test_what_was_not_verified_back_stays_hurt_and_is_healed_again() -> None:
    victim = Victim()
    made = injector(victim, Disk())
    made.inject(PowerLoss("cobalt"), lambda: None)
    victim.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        made.heal("cobalt")
    assert list(made.hurt) == ["cobalt"]
    made.heal("cobalt")
    assert list(made.hurt) == []
    assert victim.done == ["off", "on", "on"]


def test_a_verification_that_fails_is_asked_again() -> None:
    victim = Victim()
    made = injector(victim, Disk())
    made.inject(PowerLoss("cobalt"), lambda: None)
    victim.raises = FleetError("the engine does not answer", hint="wait")
    assert made.heal("cobalt") == ()
    assert made.hurt == ()


def test_how_long_a_fault_and_its_end_took_is_what_the_record_says() -> None:
    disk, told = Disk(), []
    made = injector(Victim(), disk)
    made.inject(PowerLoss("cobalt"), lambda: None)
    told.append(made.took_s)
    made.heal("cobalt")
    told.append(made.took_s)
    assert told == disk.took_s
    assert min(told) > 0
