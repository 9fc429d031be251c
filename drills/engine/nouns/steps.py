"""Steps: what the runner does, in order. Values only; the runner gives them effect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from assertions.live import Progress
from drills.engine.nouns.faults import Fault
from drills.engine.nouns.located import Located, Problem
from history.reader import Run


@dataclass(frozen=True)
class Until:
    """A live predicate over the history so far; composes with ``&`` and ``|``. It steers and never judges."""

    text: str
    check: Callable[[Run, int], Progress]
    after_restore: bool = False
    """It can only hold once something was restored."""

    def __and__(self, other: Until) -> Until:
        def both(run: Run, now_ns: int) -> Progress:
            mine, theirs = self.check(run, now_ns), other.check(run, now_ns)
            return Progress(mine.done and theirs.done, theirs.text if mine.done else mine.text)

        return Until(f"{self.text} and {other.text}", both, self.after_restore or other.after_restore)

    def __or__(self, other: Until) -> Until:
        def either(run: Run, now_ns: int) -> Progress:
            mine, theirs = self.check(run, now_ns), other.check(run, now_ns)
            return Progress(mine.done or theirs.done, f"{mine.text}; {theirs.text}")

        return Until(f"{self.text} or {other.text}", either, self.after_restore and other.after_restore)


@dataclass(frozen=True)
class Baseline(Located):
    """Load on a healthy fleet: what everything later is compared with."""

    seconds: float

    def describe(self) -> str:
        return f"Baseline for {self.seconds:g} s"

    def longest_s(self) -> float:
        return self.seconds

    def problems(self) -> list[Problem]:
        if 0 < self.seconds < math.inf:
            return []
        return [self.problem(f"Baseline(seconds={self.seconds!r}): a baseline needs more than 0 seconds, and an end")]


@dataclass(frozen=True)
class Inject(Located):
    """Injects a fault and verifies by independent signals that it took effect."""

    fault: Fault

    def describe(self) -> str:
        return f"Inject {self.fault.mark(None).kind} into {self.fault.target}"

    def longest_s(self) -> float:
        return 0.0

    def problems(self) -> list[Problem]:
        return []


@dataclass(frozen=True)
class Observe(Located):
    """Watches until ``until`` holds, at most ``at_most_s``, and then ``then_s`` more."""

    until: Until | None = None
    at_most_s: float = 60.0
    then_s: float = 0.0

    def describe(self) -> str:
        if self.until is None:
            return f"Observe for {self.longest_s():g} s"
        after = f", then {self.then_s:g} s" if self.then_s else ""
        return f"Observe until {self.until.text}, at most {self.at_most_s:g} s{after}"

    def longest_s(self) -> float:
        return self.at_most_s + self.then_s

    def problems(self) -> list[Problem]:
        found = []
        if not 0 < self.at_most_s < math.inf:
            found.append(self.problem(f"Observe(at_most_s={self.at_most_s!r}): must be more than 0 seconds, and end"))
        if not 0 <= self.then_s < math.inf:
            found.append(self.problem(f"Observe(then_s={self.then_s!r}): must not be negative, and end"))
        return found


Deed = Literal[
    "wait",
    "set up",
    "cut control plane",
    "mend control plane",
    "upgrade",
    "downgrade",
    "check ingress",
    "tear down",
    "rebuild",
    "return traffic",
]


@dataclass(frozen=True)
class Stage(Located):
    """One stage of a restore as people live through it: ``does`` is done at once and checked, the rest of ``seconds``
    is waited. The duration is what people and providers need; it is the only thing that is programmed.

    ``value``: the version (upgrade, downgrade), or the manifests themselves (check ingress). ``return traffic`` raises
    the cluster's part of the traffic evenly over ``seconds``. ``refused``: the declared answer of the check is no.
    """

    name: str
    seconds: float
    does: Deed = "wait"
    value: str = ""
    refused: bool = False

    def problems(self) -> list[Problem]:
        found = []
        if not 0 <= self.seconds < math.inf:
            found.append(f"seconds={self.seconds!r}: must not be negative, and end")
        if self.does in ("upgrade", "downgrade", "check ingress") and not self.value:
            found.append(f"does={self.does!r}: needs a value")
        return [self.problem(f"Stage {self.name!r}: {text}") for text in found]


@dataclass(frozen=True)
class Restore(Located):
    """Heals the fault in ``cluster`` (or in the weight store of that name) and verifies that it is back."""

    cluster: str
    stages: tuple[Stage, ...] = ()
    """The restore as people live through it, while the load goes on; empty = healed at once."""
    unless: Until | None = None
    """Once this holds, the rest of the stages proves nothing any more and is left out."""

    def describe(self) -> str:
        return f"Restore {self.cluster}" + (f" in {len(self.stages)} stages" if self.stages else "")

    def longest_s(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def problems(self) -> list[Problem]:
        found = [problem for stage in self.stages for problem in stage.problems()]
        if self.stages and not any(stage.does == "rebuild" for stage in self.stages):
            found.append(self.stages[0].problem(f"Restore({self.cluster!r}): one of its stages must be 'rebuild'"))
        return found


Step = Baseline | Inject | Observe | Restore
