"""Words for numbers: how reports write seconds, intervals, shares, bytes and verdicts.

Called by every report. Never decides anything and never escapes markup: escaping belongs to each output format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from assertions.result import Interval

NONE = "–"
GLYPHS = {"pass": "✓", "fail": "✗", "unknown": "?"}
"""A glyph stands beside each verdict word, so that nothing rests on colour."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff\ud800-\udfff\u202a-\u202e\u2066-\u2069]+")


def number(value: float) -> str:
    """A figure without unit: 251 -> "251", 13200 -> "13,200", 0.8713 -> "0.871"."""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """Seconds for people: "0.43 s", "12.3 s", "3 min 20 s", "2 h 05 min"; a dash for None."""
    if value is None:
        return NONE
    magnitude = abs(value)
    if magnitude < 9.995:
        return f"{value:.2f} s"
    if magnitude < 99.95:
        return f"{value:.1f} s"
    if magnitude < 600:
        return f"{value:.0f} s"
    sign, whole = ("-" if value < 0 else ""), round(magnitude)
    if whole < 7200:
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    return f"{sign}{whole // 3600} h {whole % 3600 // 60:02d} min"


def limit_seconds(value: float) -> str:
    """A limit as the drill wrote it: 10.0 -> "10 s", 0.5 -> "0.5 s"."""
    return f"{value:g} s" if abs(value) < 600 else seconds(value)


def interval(bounds: Interval | None) -> str:
    """An interval in seconds: "5.90–6.21 s", "> 60.0 s" when its end was not seen, a dash for None."""
    if bounds is None:
        return NONE
    low, high = bounds
    if high is None:
        return f"> {seconds(low)}"
    if seconds(low) == seconds(high):
        return seconds(high)
    left = seconds(low)
    if high < 99.95 and left.endswith(" s"):
        digits = 2 if high < 9.995 else 1
        return f"{low:.{digits}f}–{high:.{digits}f} s"
    return f"{left} – {seconds(high)}"


def measure(value: float | None, unit: str) -> str:
    """A value in the unit of its objective ("s", "ms", "bytes", "ratio", "requests" and the like)."""
    if value is None:
        return NONE
    if unit == "s":
        return limit_seconds(value)
    if unit == "ms":
        return f"{number(value)} ms"
    if unit in ("bytes", "B"):
        return size(value)
    if unit in ("ratio", ""):
        return f"{value:g}"
    return f"{number(value)} {unit}"


def span(bounds: Interval | None, unit: str) -> str:
    """Bounds in the unit of their objective."""
    if bounds is None:
        return NONE
    if unit == "s":
        return interval(bounds)
    low, high = bounds
    if high is None:
        return f"> {measure(low, unit)}"
    if low == high:
        return measure(high, unit)
    return f"{measure(low, unit)} – {measure(high, unit)}"


def percent(part: float, whole: float) -> str:
    """A share: "1.9 %"; never rounds something to nothing nor nearly all to all."""
    if whole <= 0:
        return NONE
    share = 100.0 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %" if share not in (0.0, 100.0) else f"{share:.0f} %"


def size(value: float) -> str:
    """Bytes in decimal units: "350 MB", "1.2 GB"."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def milliseconds(value: float | None) -> str:
    """Latency: "4.2 ms", "84 ms", "5,003 ms"."""
    if value is None:
        return NONE
    return f"{value:.1f} ms" if abs(value) < 9.95 else f"{value:,.0f} ms"


def count(value: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 model", "3 models"."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def one_line(text: str, limit: int = 200) -> str:
    """Text made safe for one line: control and bidi characters become blanks, long text is cut with an ellipsis."""
    flat = _CONTROL.sub(" ", text[: limit * 4])
    flat = " ".join(flat.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def block(text: str, limit: int) -> str:
    """Text of several lines made safe to show: line ends are \\n, other control and bidi characters become U+FFFD."""
    plain = text[:limit].replace("\r\n", "\n")
    return _CONTROL.sub(lambda found: "".join(c if c in "\n\t" else "\ufffd" for c in found[0]), plain)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Names for a sentence: "a, b and c", "a, b, c and 4 more"."""
    all_names = [one_line(name, 60) for name in names]
    head, rest = all_names[:limit], len(all_names) - limit
    if rest > 0:
        return f"{', '.join(head)} and {rest:,} more"
    if len(head) < 2:
        return "".join(head)
    return f"{', '.join(head[:-1])} and {head[-1]}"
