"""``Ablation``: what each remediation buys: the recoveries of runs of one drill that differ in their remediations only.

Made by the ablation command from the results of its runs, written as ``ablation.json``, read by ``reports.ablation``.
Pure; compares intervals and never guesses a recovery that a run did not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assertions.result import Interval, Result

ABLATION_SCHEMA_VERSION = 1
NONE = "none"


@dataclass(frozen=True)
class Cell:
    """One class in one run. ``recovered_s`` None: unaffected. ``needed_cluster``: not recovered before its restore."""

    recovered_s: Interval | None
    relapsed: bool = False
    needed_cluster: bool = False
    full_capacity_s: float | None = None


@dataclass(frozen=True)
class Variant:
    """One run. ``name``: none, all, only X, without X; ``run``: its directory, beneath the ablation's."""

    name: str
    remedies: tuple[str, ...]
    run: str
    verdict: str
    sound: bool
    classes: dict[str, Cell]


@dataclass(frozen=True)
class Ablation:
    """The whole table. ``remedies``: (name, what it is). ``time_scale``: see ``RunHeader``."""

    drill: str
    seed: int
    time_scale: float
    remedies: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]
    variants: tuple[Variant, ...]
    schema_version: int = ABLATION_SCHEMA_VERSION


def variant(name: str, remedies: Sequence[str], run: str, result: Result) -> Variant:
    """What one run's result says of each class that lost replicas or had bad requests."""
    heal_s = min((fault.heal_s for fault in result.faults if fault.heal_s is not None), default=None)
    cells = {}
    for label, found in result.classes.items():
        bounds = None if found.unaffected else found.recovered_s or (0.0, None)
        late = bounds is not None and (bounds[1] is None or (heal_s is not None and bounds[1] > heal_s))
        cells[label] = Cell(bounds, found.relapsed, late and heal_s is not None, found.full_capacity_s)
    sound = all(check.verdict == "pass" for check in result.validity.checks)
    return Variant(name, tuple(remedies), run, result.verdict, sound, cells)


def gain(base: Interval | None, with_: Interval | None) -> tuple[float, float | None] | None:
    """How many times sooner: [least, most] that both intervals allow; most None: no upper end is known.

    None where nothing can be said: no outage without, or no outage with it (infinitely sooner), or neither end seen.
    """
    if base is None or with_ is None or with_[1] is None:
        return None
    least = base[0] / max(with_[1], 1e-9)
    most = None if base[1] is None or with_[0] <= 0.0 else base[1] / with_[0]
    return least, most


def hit_classes(variants: Iterable[Variant]) -> tuple[str, ...]:
    """Classes that any run hurt, in the order of the first run."""
    found: dict[str, None] = {}
    for one in variants:
        found |= {label: None for label, cell in one.classes.items() if cell.recovered_s is not None}
    return tuple(found)
