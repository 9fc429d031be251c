"""``Measure``: what a checker of an objective found, before it is held against the limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from assertions.case import Case
from assertions.result import Interval, Verdict
from assertions.scopes import Scope
from history.records import ObjectiveSpec


@dataclass(frozen=True)
class Measure:
    """What a checker found. ``verdict`` None: judged by ``bounds`` against the limit."""

    bounds: Interval | None
    evidence: str
    text: str = ""
    verdict: Verdict | None = None


Checker = Callable[[Case, ObjectiveSpec, Scope], Measure]
