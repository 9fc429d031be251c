"""``ablation.html``: what each remediation buys, as one table and one chart: class x remediation -> recovery time.

Called by the ablation command. One file, no script; every text is escaped by the template, and no mark rests on its
colour alone. Never judges: it shows intervals, in the run's seconds and in those that it stands for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from assertions.ablation import NONE, Ablation, Cell, Variant, gain
from reports.clocks import stands_for
from reports.html import CSP
from reports.words import interval, one_line

WIDTH_PX, NAME_PX, ROW_PX, TOP_PX = 900, 190, 15, 26
SHAPES = ("circle", "square", "diamond", "triangle", "cross")
COLOURS = ("#0077bb", "#ee7733", "#cc3311", "#009988", "#555555")
"""Okabe-Ito's, in the order of the classes; each has a shape of its own besides."""


@dataclass(frozen=True)
class Entry:
    """A cell in words: the scaled time first, then the run's, then the gain."""

    text: str
    exact: str
    gain: str


def render(found: Ablation) -> bytes:
    """The page in UTF-8."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    base = next((v for v in found.variants if v.name == NONE), None)
    rows = [(v, meaning(found, v), [entry(found, base, v, label) for label in found.classes]) for v in found.variants]
    keys = [(label, Markup(_mark(SHAPES[i % 5], 8, 7, COLOURS[i % 5]))) for i, label in enumerate(found.classes)]
    text: str = environment.get_template("ablation.html.j2").render(
        found=found, rows=rows, keys=keys, chart=chart(found), csp=CSP, sentence=finding(found), clock=_clock(found)
    )
    return text.encode()


def meaning(found: Ablation, variant: Variant) -> str:
    """What the row's remediations are, in the report's words."""
    words = dict(found.remedies)
    if variant.name == NONE:
        return "as it was"
    if variant.name.startswith("without "):
        return f"all but {words.get(variant.name.removeprefix('without '), '')}"
    if len(variant.remedies) == 1:
        return words.get(variant.remedies[0], "")
    return ", ".join(variant.remedies)


def entry(found: Ablation, base: Variant | None, variant: Variant, label: str) -> Entry:
    """One cell of the table."""
    cell = variant.classes.get(label)
    if cell is None or cell.recovered_s is None:
        return Entry("no outage", "", "")
    scaled = _scaled(cell, found.time_scale)
    exact = interval(cell.recovered_s) if found.time_scale != 1.0 else ""
    marks = [word for word, true in (("relapsed", cell.relapsed), ("with the cluster", cell.needed_cluster)) if true]
    before = base.classes.get(label) if base is not None and base is not variant else None
    times = gain(before.recovered_s, cell.recovered_s) if before is not None else None
    sooner = "" if times is None else f"{times[0]:,.{int(times[0] < 20)}f}× sooner" if times[0] >= 1.05 else "no sooner"
    return Entry(scaled, ", ".join([exact, *marks] if exact else marks), sooner)


def finding(found: Ablation) -> str:
    """What the table says in one sentence."""
    by_name = {v.name: v for v in found.variants}
    if NONE not in by_name or "all" not in by_name:
        return "The runs without and with all remediations are not both finished yet."
    parts = []
    for label in found.classes:
        before, after = (by_name[name].classes.get(label) for name in (NONE, "all"))
        if before is None or before.recovered_s is None or after is None:
            continue
        now = "no outage" if after.recovered_s is None else _scaled(after, found.time_scale)
        parts.append(f"{label} {_scaled(before, found.time_scale)} → {now}")
    return "Without any → with all remediations: " + "; ".join(parts) + "."


def chart(found: Ablation) -> Markup:
    """A group of lines a variant, one line a class, on one logarithmic time axis; an arrow where no end was seen."""
    cells = [(v, i, v.classes.get(label)) for v in found.variants for i, label in enumerate(found.classes)]
    times = [t for _, _, c in cells if c is not None for t in c.recovered_s or () if t is not None and t > 0]
    low, high = (min(times) * 0.7, max(times) * 1.4) if times else (1.0, 10.0)

    def x(t_s: float) -> float:
        inner = WIDTH_PX - NAME_PX - 20
        return NAME_PX + inner * math.log(max(t_s, low) / low) / math.log(high / low)

    group = ROW_PX * len(found.classes) + 10
    height = TOP_PX + group * len(found.variants)
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP_PX - 6}" y2="{height}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="12">{_hours(t * found.time_scale)}</text>'
        for t in _ticks(low, high, found.time_scale)
    ]
    for number, one in enumerate(found.variants):
        top = TOP_PX + number * group
        name = Markup('<text class="name" x="0" y="{}">{}</text>')
        parts.append(name.format(f"{top + group / 2:.1f}", one_line(one.name, 26)))
        for i, label in enumerate(found.classes):
            cell = one.classes.get(label)
            if cell is not None and cell.recovered_s is not None:
                parts.append(_bar(cell, x, top + 8 + i * ROW_PX, i))
            else:
                parts.append(f'<text class="none" x="{NAME_PX}" y="{top + 12 + i * ROW_PX}">no outage</text>')
    title = "Recovery time by class and remediation, logarithmic"
    svg = '<svg role="img" viewBox="0 0 {} {}" aria-label="{}">{}</svg>'
    return Markup(svg).format(WIDTH_PX, height, title, Markup("".join(map(str, parts))))


def _bar(cell: Cell, x: object, y: float, number: int) -> str:
    assert callable(x)
    assert cell.recovered_s is not None
    low, high = cell.recovered_s
    colour = COLOURS[number % 5]
    left = x(low)
    right = WIDTH_PX - 12 if high is None else x(high)
    line = f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
    if high is None:
        return line + f'<path d="M{right} {y}l-7 -4v8z" fill="{colour}"/>'
    return line + _mark(SHAPES[number % 5], right, y, colour)


def _mark(shape: str, x: float, y: float, colour: str) -> str:
    paths = {
        "circle": f"M{x - 4:.1f} {y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "square": f"M{x - 4:.1f} {y - 4}h8v8h-8z",
        "diamond": f"M{x:.1f} {y - 5}l5 5l-5 5l-5 -5z",
        "triangle": f"M{x:.1f} {y - 5}l5 9h-10z",
        "cross": f"M{x - 4:.1f} {y - 1.5}h2.500v-2.500h3v2.500h2.500v3h-2.500v2.500h-3v-2.500h-2.500z",
    }
    return f'<path d="{paths[shape]}" fill="{colour}"/>'


def _ticks(low: float, high: float, scale: float) -> list[float]:
    nice = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 43200, 86400]
    found = [t / scale for t in nice if low <= t / scale <= high]
    return found if len(found) <= 9 else found[:: math.ceil(len(found) / 9)]


def _hours(t_s: float) -> str:
    if t_s < 60:
        return f"{t_s:g} s"
    return f"{t_s / 60:g} min" if t_s < 3600 else f"{t_s / 3600:g} h"


def _scaled(cell: Cell, scale: float) -> str:
    if cell.recovered_s is None:
        return "no outage"
    low, high = cell.recovered_s
    return f"> {stands_for(low, scale)}" if high is None else stands_for(high, scale)


def _clock(found: Ablation) -> str:
    if found.time_scale == 1.0:
        return "Times are seconds since the injection."
    return f"1 s of a run stands for {found.time_scale:g} s: times are of the outage; those of the run stand below."
