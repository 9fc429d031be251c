"""``Drill``: an immutable value that says everything: fleet, load, steps, objectives. Planned without running.

``problems()`` collects every mistake with its file and line; nothing here touches a process or the network.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import Literal

from drills.engine.nouns.faults import Fault
from drills.engine.nouns.guards import Guard, defaults
from drills.engine.nouns.located import Located, Problem
from drills.engine.nouns.objectives import Objective
from drills.engine.nouns.steps import Baseline, Inject, Observe, Restore, Step
from drills.engine.nouns.typed import mistyped, well_typed
from fleet.spec import FleetSpec
from history.errors import meant
from history.records import LoadSpec, Mix, StoryPost
from loadgen.schedule import load_problems

MOST_PROCESSES = 64


@dataclass(frozen=True)
class OpenLoop(Located):
    """Open-loop load over the fleet's models by their declared shares: sends never wait for answers.

    A request is good when it is answered completely and correctly within ``good_within_ms`` of its intended time.
    The client's time-outs belong to the drill: connect 0.9 s, not 1.0, because the kernel resends a SYN after 1 s.
    """

    rate_rps: float
    good_within_ms: float = 500.0
    shape: Literal["constant", "ramp", "poisson"] = "constant"
    connect_timeout_s: float = 0.9
    total_timeout_s: float = 5.0
    rate_from_rps: float = 0.0
    ramp_s: float = 0.0
    processes: int = 1

    def problems(self, longest_s: float = 1.0) -> list[Problem]:
        """Mistakes of the load, and of what it sends in all in ``longest_s``."""
        found = load_problems(self.spec(longest_s, 0))
        if not 1 <= self.processes <= MOST_PROCESSES:
            found.append(f"processes={self.processes!r}: must be 1 to {MOST_PROCESSES}")
        return [self.problem(f"OpenLoop: {text}") for text in found]

    def spec(self, horizon_s: float, seed: int) -> LoadSpec:
        """The record that the load process reads."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("processes", "where")}
        return LoadSpec(**own, horizon_s=horizon_s, seed=seed)


@dataclass(frozen=True)
class BlastRadius(Located):
    """The declared most that a drill may touch at one time, and the least that must stay; see ``safety.refusals``."""

    clusters: int = 1
    survivors: int = 1

    def problems(self) -> list[Problem]:
        """Mistakes of the declaration itself."""
        if self.clusters >= 1 and self.survivors >= 0:
            return []
        return [self.problem(f"{self}: clusters must be at least 1, and survivors not negative")]


@dataclass(frozen=True)
class Ablation:
    """``make``: the same drill with these remediations on; ``remedies``: (name, what it is) of each there is.

    ``apart``: those that are no part of ``all``, which is to show a recovery: they prevent the outage, or hide it.
    """

    make: Callable[[frozenset[str]], Drill]
    remedies: tuple[tuple[str, str], ...]
    apart: tuple[str, ...] = ()

    @property
    def all(self) -> frozenset[str]:
        """Every remediation but those that stand apart."""
        return frozenset(name for name, _ in self.remedies if name not in self.apart)

    def problem(self, names: Collection[str]) -> str:
        """Empty, or which names are no remediation of this drill."""
        known = [name for name, _ in self.remedies]
        unknown = sorted(name for name in names if name not in known)
        return f"no remediation {', '.join(map(repr, unknown))}; there are {', '.join(known)}" if unknown else ""


@dataclass(frozen=True)
class Drill(Located):
    """One drill. ``name`` is how the command line knows it: lower-case words with hyphens."""

    name: str
    fleet: FleetSpec
    load: OpenLoop
    steps: list[Step] | tuple[Step, ...]
    objectives: list[Objective] | tuple[Objective, ...]
    blast_radius: BlastRadius = BlastRadius()
    guards: list[Guard] | tuple[Guard, ...] = field(default_factory=defaults)
    time_scale: float = 1.0
    """One second of the run stands for so many seconds of what it replays; every page shows both clocks."""
    recovery_until: Literal["restore", "end"] = "restore"
    """``end``: recovery may need the restore, so the fault window goes on after it."""
    story: tuple[StoryPost, ...] = ()
    """What was posted in the outage that this drill replays; pages set it beside what the run showed."""
    ablation: Ablation | None = None
    """What the drill can be with and without, for ``run --with`` and ``run --ablate``."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(step.fault for step in self.steps if isinstance(step, Inject))

    def longest_s(self) -> float:
        """The longest that the steps can last, without the time that verification takes."""
        return sum(step.longest_s() for step in self.steps)

    def fault_window_s(self) -> float:
        """The longest that the drill looks between its first injection and the restore (or its end)."""
        total, inside = 0.0, False
        for step in self.steps:
            if isinstance(step, Restore) and inside and self.recovery_until == "restore":
                break
            if isinstance(step, Inject):
                inside = True
            elif inside:
                total += step.longest_s()
        return total

    def mix(self) -> Mix:
        """The fleet's models by their declared shares."""
        return Mix(self.fleet.mix_entries())

    def problems(self) -> tuple[Problem, ...]:
        """Every mistake, in the order of the file; values are looked at where the types are right."""
        wrong = list(mistyped(self, self))
        found = [problem for _, problem in wrong]
        if not any(noun is self for noun, _ in wrong):
            found += self._value_problems()
        return tuple(sorted(found, key=lambda p: (p.where.file, p.where.line)))

    def _value_problems(self) -> list[Problem]:
        """Mistakes of values, of every noun without a field of a wrong type."""
        found: list[Problem] = []
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            found.append(self.problem(f"name={self.name!r}: must be lower-case words joined by hyphens"))
        found += [self.problem(f"fleet {self.fleet.name!r}: {text}") for text in self.fleet.problems()]
        if not 0 < self.time_scale < math.inf:
            found.append(self.problem(f"time_scale={self.time_scale!r}: must be a number above 0"))
        steps_s = self.longest_s() if all(map(well_typed, self.steps)) else 1.0
        found += self.load.problems(steps_s if 1.0 < steps_s < math.inf else 1.0) if well_typed(self.load) else []
        for noun in (*self.steps, self.blast_radius, *self.guards):
            found += noun.problems() if well_typed(noun) else []
        for step in self.steps:
            found += step.fault.problems(self.fleet) if isinstance(step, Inject) and well_typed(step) else []
        found += self._order_problems() if all(map(well_typed, self.steps)) else []
        return found + self._objective_problems([one for one in self.objectives if well_typed(one)])

    def _order_problems(self) -> list[Problem]:
        found: list[Problem] = []
        hurt: set[str] = set()
        restored = False
        if not self.steps or not isinstance(self.steps[0], Baseline):
            found.append(self.problem("steps: the first step must be a Baseline; without it nothing can be compared"))
        if not self.faults:
            found.append(self.problem("steps: there is no Inject; a drill that injects nothing proves nothing"))
        for step in self.steps:
            if isinstance(step, Inject):
                target = step.fault.target
                if target in hurt:
                    found.append(step.problem(f"Inject: {target!r} is hurt already; Restore({target!r}) it first"))
                hurt.add(target)
            elif isinstance(step, Restore):
                if step.cluster not in hurt:
                    near = meant(step.cluster, hurt)
                    found.append(step.problem(f"Restore({step.cluster!r}): {near}no fault was injected into it before"))
                hurt.discard(step.cluster)
                restored = True
            elif isinstance(step, Observe) and step.until and step.until.after_restore and not restored:
                found.append(step.problem(f"Observe: no Restore stands before it, so never {step.until.text!r}"))
        return found

    def _objective_problems(self, objectives: list[Objective]) -> list[Problem]:
        models = tuple(model.name for model in self.fleet.models)
        classes = tuple(dict.fromkeys(model.model_class for model in self.fleet.models))
        clusters = tuple(cluster.name for cluster in self.fleet.clusters)
        found: list[Problem] = []
        if not self.objectives:
            found.append(self.problem("objectives: there is none; a drill without objectives can never pass"))
        names = Counter(objective.spec.name for objective in objectives)
        for objective in objectives:
            found += objective.problems(models, classes, clusters)
            if objective.spec.window == "failback" and not any(isinstance(step, Restore) for step in self.steps):
                text = f"objective {objective.spec.name}: its window is the failback, and there is no Restore in steps"
                found.append(objective.problem(text))
            if names[objective.spec.name] > 1:
                found.append(objective.problem(f"objective {objective.spec.name}: declared twice"))
        return found
