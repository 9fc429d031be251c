"""Phase strips: one inline SVG a model, on one time axis, drawn twice (wide and narrow pages). No JavaScript.

Upper lane: what the system did (detect, decide, schedule, weights, start). Lower lane: what users saw (outage, first
success, *service back* and *recovered* as error bars, hold certified, warm, full capacity). Called by page.py.
Every text is escaped here; colours are CSS classes, and each mark has a shape of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from assertions.result import Interval, ModelRecovery
from reports.facts import unaffected_in_words
from reports.words import interval, seconds

WIDE_PX = 820
NARROW_PX = 340
_CHAR_PX = 6.6
_BOLD = 1.14
"""How much wider a bold label is; widths are those of DejaVu Sans, the widest common fallback."""
_PAD_PX = 10.0
_BAR_Y, _BAR_H = 3.0, 17.0
_LANE_Y = 33.0
_LABEL_Y, _LABEL_STEP, _LABEL_ROWS = 56.0, 14.0, 4

STAGES = (
    ("detected", "detect"),
    ("decided", "decide"),
    ("scheduled", "schedule"),
    ("weights", "weights"),
    ("ready", "start"),
)
"""Phases of the upper lane: the segment that ends with each of them has the verb's name."""


@dataclass(frozen=True)
class Axis:
    """The common time axis: 0 is the injection; ``marks`` are named instants drawn through every strip."""

    end_s: float
    marks: tuple[tuple[str, float], ...] = ()
    time_scale: float = 1.0

    def x(self, t_s: float, width: int) -> float:
        """Pixels of an instant, clamped to the drawing."""
        inner = width - 2 * _PAD_PX
        return _PAD_PX + inner * min(max(t_s, 0.0), self.end_s) / self.end_s


@dataclass(frozen=True)
class Drawing:
    """The same strip for wide and for narrow pages."""

    wide: Markup
    narrow: Markup


@dataclass
class _Canvas:
    width: int
    parts: list[Markup] = field(default_factory=list)

    def add(self, name: str, text: str = "", **attributes: float | str) -> None:
        self.parts.append(_tag(name, text, **attributes))


@dataclass(frozen=True)
class _Label:
    """A text under the lower lane, near ``x``."""

    text: str
    x: float
    tone: str = ""

    @property
    def width(self) -> float:
        return len(self.text) * _CHAR_PX * (_BOLD if self.tone in ("strong", "bad") else 1.0)


def axis_for(
    recoveries: Iterable[ModelRecovery], limit_s: float | None, window_end_s: float, heal_s: float | None
) -> Axis:
    """An axis that holds every recovery and the limit; warm and full capacity may lie beyond it (drawn as arrows)."""
    core, late, never = [limit_s or 0.0], [0.0], False
    for recovery in recoveries:
        scalars = (getattr(recovery, f"{name}_s") for name, _ in STAGES)
        core += [t for t in (*scalars, recovery.first_success_s, recovery.hold_certified_s) if t is not None]
        for bounds in (recovery.service_back_s, recovery.recovered_s):
            core += [t for t in bounds or () if t is not None]
            never = never or (bounds is not None and bounds[1] is None)
        late += [t for t in (recovery.warm_s, recovery.full_capacity_s) if t is not None]
    end = max(core)
    end = max(end, min(max(late), 1.6 * end))
    if never:
        end = max(end, window_end_s)
    end = max(end * 1.03, 1.0)
    marks = [("limit", limit_s)] if limit_s else []
    if heal_s is not None and heal_s <= end:
        marks.append(("restore", heal_s))
    return Axis(end, tuple((name, float(t)) for name, t in marks if t is not None))


def ruler(axis: Axis) -> Drawing:
    """The axis with its figures and the names of its marks."""
    return Drawing(_ruler(axis, WIDE_PX), _ruler(axis, NARROW_PX))


def strip(name: str, recovery: ModelRecovery, axis: Axis) -> Drawing:
    """The strip of one model or class."""
    return Drawing(_strip(name, recovery, axis, WIDE_PX), _strip(name, recovery, axis, NARROW_PX))


def sentence(name: str, recovery: ModelRecovery) -> str:
    """The strip in words: its accessible label."""
    parts = [f"{word} {seconds(t)}" for word, t in phases(recovery) if t is not None]
    if recovery.unaffected:
        return f"{name}: {'; '.join([unaffected_in_words(recovery), ', '.join(parts)]).rstrip('; ')}."
    parts.append(f"service back {interval(recovery.service_back_s)}")
    parts.append(f"recovered {interval(recovery.recovered_s)}")
    if recovery.relapsed:
        parts.append("relapsed afterwards")
    return f"{name}: {', '.join(parts)}; {recovery.bad:,} bad of {recovery.sent:,} sends."


def phases(recovery: ModelRecovery) -> tuple[tuple[str, float | None], ...]:
    """The phases that are instants, in words."""
    return (
        ("detected", recovery.detected_s),
        ("decided", recovery.decided_s),
        ("scheduled", recovery.scheduled_s),
        ("weights", recovery.weights_s),
        ("ready", recovery.ready_s),
        ("first success", recovery.first_success_s),
        ("hold certified", recovery.hold_certified_s),
        ("warm", recovery.warm_s),
        ("full capacity", recovery.full_capacity_s),
    )


def ticks(end_s: float, at_most: int) -> list[float]:
    """Round instants from 0 to the end."""
    for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400):
        if end_s / step <= at_most:
            return [float(t) for t in np.round(np.arange(0, end_s + step * 1e-6, step), 6)]
    return [0.0]


def _tick_step(width: int) -> int:
    return 12 if width >= WIDE_PX else 5


def _ruler(axis: Axis, width: int) -> Markup:
    canvas, height = _Canvas(width), 34
    canvas.add("line", x1=_PAD_PX, x2=width - _PAD_PX, y1=height - 1, y2=height - 1, class_="axis")
    for t in ticks(axis.end_s, _tick_step(width) // (1 if axis.time_scale == 1.0 else 2)):
        x = axis.x(t, width)
        anchor = "start" if t == 0 else "end" if x > width - 24 else "middle"
        canvas.add("line", x1=x, x2=x, y1=height - 5, y2=height - 1, class_="axis")
        text = f"{t:g} s" if axis.time_scale == 1.0 else f"{t:g} s = {t * axis.time_scale / 3600:.3g} h"
        canvas.add("text", text if t else "kill", x=x if t else 0.0, y=height - 9, text_anchor=anchor, class_="tick")
    used = -1e9
    for name, t in axis.marks:
        x, text = axis.x(t, width), f"{name} {t:.3g} s"
        left = min(max(x - len(text) * _CHAR_PX / 2, 0), width - len(text) * _CHAR_PX)
        if left < used:
            continue
        used = left + len(text) * _CHAR_PX + 6
        canvas.add("text", text, x=left, y=10, class_="markname")
        canvas.add("line", x1=x, x2=x, y1=13, y2=16, class_="mark")
    return _svg(canvas, height, "Time axis: seconds since the injection call.")


def _strip(name: str, recovery: ModelRecovery, axis: Axis, width: int) -> Markup:
    canvas = _Canvas(width)
    if recovery.unaffected and not recovery.victims and not any(getattr(recovery, f"{key}_s") for key, _ in STAGES):
        _quiet(canvas, recovery)
        return _svg(canvas, 26, sentence(name, recovery))
    labels = _place(_labels(recovery, axis, width), width)
    rows = max((row for row, _, _ in labels), default=0) + 1
    height = _LABEL_Y + (rows - 1) * _LABEL_STEP + 6
    _grid(canvas, axis, _LANE_Y + 8)
    _system_lane(canvas, recovery, axis)
    _user_lane(canvas, recovery, axis)
    for row, left, label in labels:
        y = _LABEL_Y + row * _LABEL_STEP
        canvas.add("line", x1=label.x, x2=label.x, y1=_LANE_Y + 8, y2=y - 9, class_="lead")
        canvas.add("text", label.text, x=left, y=y, class_=f"label {label.tone}".strip())
    return _svg(canvas, height, sentence(name, recovery))


def _quiet(canvas: _Canvas, recovery: ModelRecovery) -> None:
    text = unaffected_in_words(recovery)
    canvas.add("line", x1=_PAD_PX, x2=canvas.width - _PAD_PX, y1=20, y2=20, class_="served")
    canvas.add("text", text, x=_PAD_PX, y=13, class_="label")


def _grid(canvas: _Canvas, axis: Axis, bottom: float) -> None:
    for t in ticks(axis.end_s, _tick_step(canvas.width)):
        x = axis.x(t, canvas.width)
        canvas.add("line", x1=x, x2=x, y1=0, y2=bottom, class_="grid")
    for _, t in axis.marks:
        x = axis.x(t, canvas.width)
        canvas.add("line", x1=x, x2=x, y1=0, y2=bottom, class_="mark")


def _system_lane(canvas: _Canvas, recovery: ModelRecovery, axis: Axis) -> None:
    start, seen = 0.0, 0
    for key, verb in STAGES:
        end = getattr(recovery, f"{key}_s")
        if end is None:
            continue
        left, right = axis.x(start, canvas.width), axis.x(end, canvas.width)
        if right > left:
            tone = "a" if seen % 2 == 0 else "b"
            canvas.add("rect", x=left, y=_BAR_Y, width=right - left, height=_BAR_H, class_=f"stage {tone}")
            _stage_text(canvas, verb, end - start, left, right)
        low, high = recovery.bounds.get(key, (end, end))
        if high is not None and axis.x(high, canvas.width) - axis.x(low, canvas.width) > 3:
            _error_bar(canvas, axis, (low, high), _BAR_Y + _BAR_H, "whisker", 2.5)
        start, seen = max(start, end), seen + 1
    if not seen:
        text = "no replacement was seen" if recovery.victims else "no replica was lost here"
        canvas.add("text", text, x=_PAD_PX + 2, y=_BAR_Y + 13, class_="label quiet")
    elif recovery.ready_s is None:
        x = axis.x(start, canvas.width)
        if canvas.width - x > 16 * _CHAR_PX:
            canvas.add("text", "✗ never ready", x=x + 6, y=_BAR_Y + 13, class_="label bad")


def _stage_text(canvas: _Canvas, verb: str, took_s: float, left: float, right: float) -> None:
    for text in (f"{verb} {seconds(took_s)}", verb):
        if len(text) * _CHAR_PX + 8 <= right - left:
            canvas.add("text", text, x=(left + right) / 2, y=_BAR_Y + 12.5, text_anchor="middle", class_="stagetext")
            return


def _user_lane(canvas: _Canvas, recovery: ModelRecovery, axis: Axis) -> None:
    back = recovery.recovered_s or recovery.service_back_s
    end_x = canvas.width - _PAD_PX
    if back is None:
        kind = "served" if recovery.unaffected else "unsure"
        canvas.add("line", x1=_PAD_PX, x2=end_x, y1=_LANE_Y, y2=_LANE_Y, class_=kind)
    else:
        low_x = axis.x(back[0], canvas.width)
        stop = end_x if back[1] is None else low_x
        canvas.add("line", x1=_PAD_PX, x2=stop, y1=_LANE_Y, y2=_LANE_Y, class_="outage")
        if back[1] is not None:
            kind = "relapsed" if recovery.relapsed else "served"
            canvas.add("line", x1=axis.x(back[1], canvas.width), x2=end_x, y1=_LANE_Y, y2=_LANE_Y, class_=kind)
    for bounds, dy in ((recovery.service_back_s, -4.0), (recovery.recovered_s, 4.0)):
        if bounds is not None and bounds[1] is not None:
            _error_bar(canvas, axis, (bounds[0], bounds[1]), _LANE_Y + dy, "bar", 3.5)
    for t, shape in (
        (None if recovery.unaffected else recovery.first_success_s, "circle"),
        (recovery.hold_certified_s, "diamond"),
        (recovery.warm_s, "triangle"),
        (recovery.full_capacity_s, "square"),
    ):
        if t is not None and t <= axis.end_s:
            _mark(canvas, axis.x(t, canvas.width), shape)


def _error_bar(canvas: _Canvas, axis: Axis, bounds: tuple[float, float], y: float, kind: str, cap: float) -> None:
    left, right = axis.x(bounds[0], canvas.width), axis.x(bounds[1], canvas.width)
    top, tall = f"{y - cap:.1f}", f"{2 * cap:.1f}"
    path = f"M{left:.1f} {top}v{tall}M{left:.1f} {y:.1f}H{right:.1f}M{right:.1f} {top}v{tall}"
    canvas.add("path", d=path, class_=kind)


def _mark(canvas: _Canvas, x: float, shape: str) -> None:
    y, r = _LANE_Y, 4.5
    if shape == "circle":
        canvas.add("circle", cx=x, cy=y, r=r - 0.5, class_="glyph")
        return
    paths = {
        "diamond": f"M{x:.1f} {y - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z",
        "triangle": f"M{x:.1f} {y - r:.1f}l{r} {2 * r - 1}h-{2 * r}z",
        "square": f"M{x - r + 1:.1f} {y - r + 1:.1f}h{2 * r - 2}v{2 * r - 2}h-{2 * r - 2}z",
    }
    canvas.add("path", d=paths[shape], class_="glyph")


def _labels(recovery: ModelRecovery, axis: Axis, width: int) -> list[_Label]:
    """Texts for the marks, most important first."""
    found = []
    back, recovered = recovery.service_back_s, recovery.recovered_s
    if recovery.unaffected:
        found.append(_Label(unaffected_in_words(recovery), _PAD_PX))
    elif recovered is not None:
        found.append(_interval_label("recovered", recovered, axis, width))
    elif back is None:
        said = "recovery not measured" if recovery.sent else "nothing was sent to it, so nothing is known"
        found.append(_Label(said, _PAD_PX, "quiet"))
    if recovery.first_success_s is not None and not recovery.unaffected:
        found.append(
            _Label(f"first success {seconds(recovery.first_success_s)}", axis.x(recovery.first_success_s, width))
        )
    if back is not None and back[1] is not None and not _same_place(back, recovered, axis, width):
        found.append(_interval_label("service back", back, axis, width))
    for word, t in (
        ("full capacity", recovery.full_capacity_s),
        ("warm", recovery.warm_s),
        ("hold certified", recovery.hold_certified_s),
    ):
        if t is not None:
            arrow = " →" if t > axis.end_s else ""
            found.append(_Label(f"{word} {seconds(t)}{arrow}", axis.x(t, width)))
    return found


def _interval_label(word: str, bounds: Interval, axis: Axis, width: int) -> _Label:
    low, high = bounds
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


def _tag(name: str, text: str = "", **attributes: float | str) -> Markup:
    words = []
    for key, value in attributes.items():
        shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        words.append(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), shown))
    opened = Markup("<{}{}").format(Markup(name), Markup("").join(words))
    if not text:
        return opened + Markup("/>")
    return opened + Markup(">{}</{}>").format(text, Markup(name))


def _svg(canvas: _Canvas, height: float, title: str) -> Markup:
    return Markup('<svg role="img" viewBox="0 0 {} {:.0f}" aria-label="{}"><title>{}</title>{}</svg>').format(
        canvas.width, height, title, title, Markup("").join(canvas.parts)
    )


__all__ = ["Axis", "Drawing", "axis_for", "phases", "ruler", "sentence", "strip", "ticks"]
