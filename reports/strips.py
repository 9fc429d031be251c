"""Phase strips: one inline SVG a model, on one time axis, drawn twice (wide and narrow pages). No JavaScript.

Upper lane: what the system did (detect, decide, schedule, weights, start). Lower lane: what users saw (outage, first
success, *service back* and *recovered* as error bars, hold certified, warm, full capacity). This module says which
strips there are and what stands where; templates/strips.svg.j2 draws and escapes. Called by html.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from assertions.result import Interval, ModelRecovery, Result, ends_open
from reports.facts import heal_of, unaffected_in_words, worst_first
from reports.forms import template
from reports.words import count, interval, one_line, seconds

MAX_STRIPS = 15
MAX_MODELS = 60
MAX_WORST_IN_CLASS = 3
MAX_CLASSES = 20
WIDE_PX = 820
NARROW_PX = 340
_CHAR_PX = 6.6
_BOLD = 1.14
"""How much wider a bold label is; widths are those of DejaVu Sans, the widest common fallback."""
_PAD_PX = 10.0
_LABEL_ROWS = 4
_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)

STAGES = {
    "detected": "detect",
    "decided": "decide",
    "scheduled": "schedule",
    "weights": "start + load",
    "ready": "ready",
}
"""Phases of the upper lane: the segment that ends with each of them has the verb's name. A replica's process starts,
and then loads its weights; when it had started is not on the phase clock (a kubelet says so up to a second late)."""


@dataclass(frozen=True)
class Axis:
    """The common time axis: 0 is the injection; ``marks`` are named instants drawn through every strip.

    ``seen_s``: the end of the fault window, beyond which strips say nothing of users.
    """

    end_s: float
    marks: tuple[tuple[str, float], ...] = ()
    time_scale: float = 1.0
    seen_s: float = math.inf

    def x(self, t_s: float, width: int) -> float:
        """Pixels of an instant, clamped to the drawing."""
        inner = width - 2 * _PAD_PX
        return _PAD_PX + inner * min(max(t_s, 0.0), self.end_s) / self.end_s

    def shows(self, t_s: float | None) -> bool:
        """Whether an instant happened and lies on the axis."""
        return t_s is not None and t_s <= self.end_s

    def ticks(self, width: int, long_texts: bool = False) -> list[float]:
        """Round instants from 0 to the end, as many as have room."""
        at_most = (12 if width >= WIDE_PX else 5) // (2 if long_texts else 1)
        step = next((step for step in _STEPS_S if self.end_s / step <= at_most), self.end_s * 2)
        return [float(t) for t in np.round(np.arange(0, self.end_s + step * 1e-6, step), 6)]

    def names(self, width: int) -> list[tuple[str, float, float]]:
        """(text, its left end, the mark) of each mark whose name has room beside those before it."""
        found, used = list[tuple[str, float, float]](), -1e9
        for name, t in sorted(self.marks, key=lambda mark: mark[1]):
            x, text = self.x(t, width), f"{name} {t:.3g} s"
            left = min(max(x - len(text) * _CHAR_PX / 2, 0), width - len(text) * _CHAR_PX)
            if left >= used:
                used = left + len(text) * _CHAR_PX + 6
                found.append((text, left, x))
        return found

    @staticmethod
    def fits(text: str, width: float) -> bool:
        """Whether a text has room."""
        return len(text) * _CHAR_PX <= width


@dataclass(frozen=True)
class Drawing:
    """The same strip for wide and for narrow pages."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Row:
    """One strip: of a class if ``heading``, else of a model."""

    name: str
    recovery: ModelRecovery
    heading: bool
    drawing: Drawing


@dataclass(frozen=True)
class Strips:
    """The strips, their axis, and what is not drawn."""

    ruler: Drawing
    rows: tuple[Row, ...]
    note: str


@dataclass(frozen=True)
class _Label:
    """A text under the lower lane, near ``x``."""

    text: str
    x: float
    tone: str = ""

    @property
    def width(self) -> float:
        return len(self.text) * _CHAR_PX * (_BOLD if self.tone in ("strong", "bad") else 1.0)


def build(result: Result, limit_s: float | None, time_scale: float) -> Strips:
    """Every model, or where they are many every class with its worst models, on one axis."""
    ends = [w.end_s for w in result.windows if w.name == "fault"] or [w.end_s for w in result.windows] or [1.0]
    chosen, note = _choose(result)
    axis = axis_for([m for _, m, _ in chosen], limit_s, max(ends), heal_of(result), time_scale)
    rows = []
    for name, m, heading in chosen:
        open_ = ends_open(m.model_class if heading else name, m, result.objectives, result.verdict)
        rows.append(Row(shown := one_line(name, 60), m, heading, strip(shown, m, axis, open_)))
    ruler = Drawing(_svg("ruler", axis, WIDE_PX), _svg("ruler", axis, NARROW_PX))
    return Strips(ruler, tuple(rows), note)


def _choose(result: Result) -> tuple[list[tuple[str, ModelRecovery, bool]], str]:
    """(name, recovery, is a class) for each strip: all models, or classes each with its worst models."""
    ranked = worst_first(result.models)
    if len(ranked) <= MAX_STRIPS or not result.classes:
        left = len(ranked) - MAX_MODELS
        note = f"{left:,} models are not drawn; the table has them." if left > 0 else ""
        return [(name, m, False) for name, m in ranked[:MAX_MODELS]], note
    chosen: list[tuple[str, ModelRecovery, bool]] = []
    for name, recovery in worst_first(result.classes)[:MAX_CLASSES]:
        members = [(n, m) for n, m in ranked if m.model_class == name]
        chosen.append((f"{name} ({count(len(members), 'model')})", recovery, True))
        if len(members) > 1:
            chosen += [(n, m, False) for n, m in members if not m.unaffected][:MAX_WORST_IN_CLASS]
    drawn = sum(not heading for _, _, heading in chosen)
    note = (
        f"{len(ranked):,} models: one strip a class, worst first, each with its "
        f"{MAX_WORST_IN_CLASS} worst models; {len(ranked) - drawn:,} models are only in the table."
    )
    return chosen, note


def axis_for(
    recoveries: Iterable[ModelRecovery],
    limit_s: float | None,
    window_end_s: float,
    heal_s: float | None,
    time_scale: float = 1.0,
) -> Axis:
    """An axis that holds every recovery and the limit; warm and full capacity may lie beyond it (drawn as arrows)."""
    core, late, never = [limit_s or 0.0], [0.0], False
    for recovery in recoveries:
        scalars = (getattr(recovery, f"{name}_s") for name in STAGES)
        core += [t for t in (*scalars, recovery.first_success_s, recovery.hold_certified_s) if t is not None]
        for bounds in (recovery.service_back_s, recovery.recovered_s):
            core += [t for t in bounds or () if t is not None]
            never = never or (bounds is not None and bounds[1] is None)
        late += [t for t in (recovery.warm_s, recovery.full_capacity_s) if t is not None]
    end = max(*core, min(max(late), 1.6 * max(core)), window_end_s if never else 0.0)
    end = max(end * 1.03, 1.0)
    marks = [("limit", limit_s)] if limit_s else []
    if heal_s is not None and heal_s <= end:
        marks.append(("restore", heal_s))
    return Axis(end, tuple(marks), time_scale, window_end_s)


def strip(name: str, recovery: ModelRecovery, axis: Axis, is_open: bool = False) -> Drawing:
    """The strip of one model or class. ``is_open``: without a proven recovery it is unknown, and not missed."""

    def drawn(width: int) -> Markup:
        labels = _place(_labels(recovery, axis, width, is_open), width)
        return _svg("strip", sentence(name, recovery), recovery, axis, width, _stages(recovery), labels, is_open)

    return Drawing(drawn(WIDE_PX), drawn(NARROW_PX))


def sentence(name: str, recovery: ModelRecovery) -> str:
    """The strip in words: its accessible label."""
    instants = (*STAGES, "first_success", "hold_certified", "warm", "full_capacity")
    reached = ((key, getattr(recovery, f"{key}_s")) for key in instants)
    parts = [f"{key.replace('_', ' ')} {seconds(t)}" for key, t in reached if t is not None]
    if recovery.unaffected:
        return f"{name}: {'; '.join([unaffected_in_words(recovery), ', '.join(parts)]).rstrip('; ')}."
    parts.append(f"service back {interval(recovery.service_back_s)}")
    parts.append(f"recovered {interval(recovery.recovered_s)}")
    if recovery.relapsed:
        parts.append("relapsed afterwards")
    return f"{name}: {', '.join(parts)}; {recovery.bad:,} bad of {recovery.sent:,} sends."


def _stages(recovery: ModelRecovery) -> list[tuple[str, str, float, float, Interval]]:
    """(verb, how long in words, from, to, bounds of its end) of each segment of the upper lane."""
    found, start = list[tuple[str, str, float, float, Interval]](), 0.0
    for key, verb in STAGES.items():
        end = getattr(recovery, f"{key}_s")
        if end is not None:
            found.append((verb, seconds(end - start), start, end, recovery.bounds.get(key, (end, end))))
            start = max(start, end)
    return found


def _labels(recovery: ModelRecovery, axis: Axis, width: int, is_open: bool) -> list[_Label]:
    """Texts for the marks, most important first."""
    found = []
    back, recovered, success_s = recovery.service_back_s, recovery.recovered_s, recovery.first_success_s
    if recovery.unaffected:
        found.append(_Label(unaffected_in_words(recovery), _PAD_PX))
    elif recovered is not None:
        found.append(_interval_label("recovered", recovered, axis, width, is_open))
    elif back is None:
        said = "recovery not measured" if recovery.sent else "nothing was sent to it, so nothing is known"
        found.append(_Label(said, _PAD_PX, "quiet"))
    if success_s is not None and not recovery.unaffected:
        found.append(_Label(f"first success {seconds(success_s)}", axis.x(success_s, width)))
    if back is not None and back[1] is not None and not _same_place(back, recovered, axis, width):
        found.append(_interval_label("service back", back, axis, width))
    for word in ("full capacity", "warm", "hold certified"):
        t = getattr(recovery, f"{word.replace(' ', '_')}_s")
        if t is not None:
            arrow = "" if axis.shows(t) else " →"
            found.append(_Label(f"{word} {seconds(t)}{arrow}", axis.x(t, width)))
    return found


def _interval_label(word: str, bounds: Interval, axis: Axis, width: int, is_open: bool = False) -> _Label:
    low, high = bounds
    if high is None and is_open:
        return _Label(f"? last failure {seconds(low)}, no hold proven", axis.x(low, width), "strong")
    if high is None:
        return _Label(f"✗ not {word} by {seconds(low)}", axis.x(low, width), "bad")
    return _Label(f"{word} {interval(bounds)}", axis.x(high, width), "strong" if word == "recovered" else "")


def _same_place(back: Interval, recovered: Interval | None, axis: Axis, width: int) -> bool:
    """Both error bars stand at one place: one text is enough there, and the table has both."""
    if recovered is None or back[1] is None or recovered[1] is None:
        return False
    return abs(axis.x(back[1], width) - axis.x(recovered[1], width)) < 12


def _place(labels: Sequence[_Label], width: int) -> list[tuple[int, float, _Label]]:
    """Greedy rows without overlap: (row, left, label). What finds no room is left to the table below."""
    rows: list[list[tuple[float, float]]] = [[] for _ in range(_LABEL_ROWS)]
    placed = []
    for label in labels:
        left = min(max(label.x - label.width / 2, 0.0), max(width - label.width, 0.0))
        for number, row in enumerate(rows):
            if all(left + label.width + 8 <= a or left >= b + 8 for a, b in row):
                row.append((left, left + label.width))
                placed.append((number, left, label))
                break
    return placed


def _svg(macro: str, *given: object) -> Markup:
    drawn: str = getattr(template("strips.svg.j2").module, macro)(*given)
    return Markup("".join(line.strip() for line in drawn.split("\n")))
