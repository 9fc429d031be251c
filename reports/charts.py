"""The four charts as Bokeh figures: latency, outcomes, traffic share, weights. Drawing only; data comes from series.py.

Colours are tokens that the page's script exchanges in dark mode; every series differs by dash, shape or hatch as well.
Called by chartset.py. Never states a finding (findings.py does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import (
    BoxAnnotation,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Label,
    NumeralTickFormatter,
    Range1d,
    Span,
)
from bokeh.plotting import figure
from numpy.typing import NDArray

from assertions.scopes import Load
from reports.series import Bins, Shares
from reports.words import one_line

TEXT, MUTED, GRID = "#24292f", "#57606a", "#d8dee4"
BLUE, ORANGE, RED = "#0077bb", "#ee7733", "#cc3311"
TEAL, PURPLE, GREY = "#009988", "#aa3377", "#7d8590"
"""Okabe-Ito and Tol's vibrant set; GREY for what is not known."""

DARK = {TEXT: "#e6edf3", MUTED: "#9aa7b4", GRID: "#2b323b", BLUE: "#3d9fe0", RED: "#f06a4d", PURPLE: "#d270a8"}
"""What dark mode draws instead; the page's script exchanges the tokens before it draws."""

CSS_NAMES = {
    TEXT: "var(--text)", MUTED: "var(--muted)", GRID: "var(--line)", BLUE: "var(--blue)", ORANGE: "var(--orange)",
    RED: "var(--red)", TEAL: "var(--teal)", PURPLE: "var(--purple)", GREY: "var(--grey)",
}  # fmt: skip
"""The same colours in the style sheet, for legends."""

QUANTILES = {"p50": (BLUE, "solid", 2.0), "p95": (ORANGE, "dashed", 2.2), "p99": (TEXT, "dotted", 1.8)}
"""Colour, dash and width of a line."""

OUTCOMES = {"good": (BLUE, None, 0.55), "bad": (RED, "/", 0.75), "unknown": (GREY, "x", 0.6)}
"""Colour, hatch and opacity of a layer."""

CLUSTER_COLOURS = (BLUE, ORANGE, TEAL, PURPLE, MUTED, TEXT)
CLUSTER_HATCHES = (None, "|", "-", "x", "+", "v")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_LEFT_PX = 74


Shade = tuple[str, float, float]
"""A window behind the charts: its kind (fault, failback or relapse), its start and its end in seconds."""


@dataclass(frozen=True)
class Frame:
    """What all charts share: the x range (one object, so that zooming one zooms all) and the shaded windows."""

    x_range: Range1d
    shades: Sequence[Shade]
    recovered_s: float | None
    x_label: str


def frame(start_s: float, end_s: float, shades: Sequence[Shade], recovered_s: float | None, time_scale: float) -> Frame:
    """A frame from the first to the last send; with a time scale its axis says what an hour is."""
    end_s = max(end_s, start_s + 1.0)
    label = "seconds since injection" + (f" ({3600 / time_scale:g} s = 1 h)" if time_scale != 1.0 else "")
    return Frame(Range1d(start=start_s, end=end_s, bounds=(start_s, end_s)), shades, recovered_s, label)


def lane(shared: Frame, bars: Sequence[tuple[str, float, float]]) -> Any:
    """The fault lane: one bar a fault from injection to verified healing, with its name inside."""
    fig = _figure(shared, 16 + 20 * len(bars), shaded=False, y_range=(0, len(bars)))
    fig.xaxis.visible = fig.yaxis.visible = fig.ygrid.visible = False
    fig.toolbar_location = None
    for row, (name, start_s, end_s) in enumerate(bars):
        fig.hbar(
            y=[row + 0.5], left=[start_s], right=[end_s], height=0.8,
            fill_color=ORANGE, fill_alpha=0.35, line_color=ORANGE,
            hatch_pattern="/", hatch_color=ORANGE, hatch_alpha=0.5,
        )  # fmt: skip
        fig.add_layout(_label(name, start_s, row + 0.5, TEXT, bold=True))
    return fig


def latency(shared: Frame, load: Load, bins: Bins, rows: NDArray[np.intp], good_within_ms: float) -> Any:
    """Raw dots and p50 / p95 / p99 of complete answers a bin, from the intended send, on a log axis."""
    values = np.concatenate([load.latency_ms[rows], bins.p99, [good_within_ms]])
    values = values[np.isfinite(values) & (values > 0)]
    low, high = float(values.min()) * 0.7, float(values.max()) * 1.6
    fig = _figure(shared, 320, y_axis_type="log", y_range=(low, high), y_label="ms from intended send")
    _dots(fig, load, rows[load.good[rows]], "circle", GREY, 3.0, 0.45)
    _dots(fig, load, rows[load.unknown[rows]], "inverted_triangle", GREY, 6.0, 0.9)
    bad = _dots(fig, load, rows[load.bad[rows]], "x", RED, 6.0, 0.75, told=True)
    for name, (colour, dash, width) in QUANTILES.items():
        x, y = _steps(bins, getattr(bins, name))
        fig.line(x, y, line_color=colour, line_dash=dash, line_width=width)
    fig.add_layout(
        Span(location=good_within_ms, dimension="width", line_color=RED, line_dash="dotdash", line_width=1.4)
    )
    fig.add_layout(
        _label(f"good within {good_within_ms:g} ms", shared.x_range.start, good_within_ms, TEXT, baseline="bottom")
    )
    fig.yaxis.ticker = FixedTicker(ticks=_log_ticks(low, high))
    fig.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    fig.add_tools(
        HoverTool(renderers=[bad], limit=3, tooltips=[("at", "@x{0.000} s"), ("took", "@y{0,0.0} ms"), ("why", "@why")])
    )
    return fig


def outcomes(shared: Frame, bins: Bins) -> Any:
    """Sends a second, stacked by outcome, under the offered rate."""
    fig = _figure(shared, 210, y_range=(0, _top(bins.offered / bins.width_s)), y_label="requests a second")
    _stack(fig, bins, [(getattr(bins, name) / bins.width_s, *style) for name, style in OUTCOMES.items()])
    x, y = _steps(bins, bins.offered / bins.width_s)
    fig.line(x, y, line_color=TEXT, line_width=1.6, line_dash="dashed")
    return fig


def shares(shared: Frame, bins: Bins, served: Shares) -> Any:
    """Which cluster answered, as a share of all sends a bin; "nobody" on top."""
    fig = _figure(shared, 210, y_range=(0, 100), y_label="% of sends")
    total = np.maximum(bins.offered, 1)
    layers = []
    for number, (name, counts) in enumerate(zip(served.names, served.counts, strict=True)):
        colour, hatch = share_style(number, name)
        layers.append((100.0 * counts / total, colour, hatch, 0.75 if name == "nobody" else 0.55))
    _stack(fig, bins, layers)
    return fig


def share_style(number: int, name: str) -> tuple[str, str | None]:
    """Colour and hatch of a cluster; "nobody" is always red and hatched."""
    if name == "nobody":
        return RED, "/"
    return CLUSTER_COLOURS[number % len(CLUSTER_COLOURS)], CLUSTER_HATCHES[number % len(CLUSTER_HATCHES)]


def lines(
    shared: Frame,
    series: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]],
    y_label: str,
    *,
    top: float | None = None,
    dots: bool = False,
) -> Any:
    """Prometheus series as lines; dash and colour go together. ``dots`` marks each value (sparse series)."""
    finite = [y[np.isfinite(y)] for _, _, y in series]
    highest = max((float(y.max()) for y in finite if len(y)), default=1.0)
    fig = _figure(shared, 190, y_range=(0, top if top is not None else _top(np.array([highest]))), y_label=y_label)
    for number, (_, x, y) in enumerate(series):
        colour, dash = line_style(number)
        fig.line(_f4(x), _f4(y), line_color=colour, line_dash=dash, line_width=2)
        if dots:
            fig.scatter(_f4(x), _f4(y), marker="circle", size=6, color=colour, line_width=0)
    return fig


def line_style(number: int) -> tuple[str, str]:
    """Colour and dash of a line by its place."""
    dashes = ("solid", "dashed", "dotted", "dotdash")
    return (BLUE, ORANGE, TEAL, PURPLE)[number % 4], dashes[number % 4]


def _figure(shared: Frame, height: int, *, shaded: bool = True, y_label: str = "", **options: Any) -> Any:
    fig = figure(
        height=height, sizing_mode="stretch_width", x_range=shared.x_range, tools="pan,box_zoom,xwheel_zoom,reset",
        active_drag="box_zoom", active_scroll=None, toolbar_location="above",
        min_border_left=_LEFT_PX, min_border_right=12, min_border_top=4, min_border_bottom=4,
        background_fill_color=None, border_fill_color=None, outline_line_color=GRID,
        output_backend="canvas", **options,
    )  # fmt: skip
    fig.toolbar.logo = None
    fig.toolbar.autohide = fig.toolbar_inner = True
    fig.xaxis.axis_label = shared.x_label
    fig.yaxis.axis_label = y_label
    for axis in (*fig.xaxis, *fig.yaxis):
        axis.update(
            axis_line_color=MUTED, major_tick_line_color=MUTED, minor_tick_line_color=None,
            major_label_text_color=MUTED, major_label_text_font=_FONT, major_label_text_font_size="12px",
            axis_label_text_color=MUTED, axis_label_text_font=_FONT, axis_label_text_font_size="12px",
            axis_label_text_font_style="normal",
        )  # fmt: skip
    fig.xaxis.formatter = fig.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    fig.grid.grid_line_color = GRID
    fig.xgrid.grid_line_alpha = 0.6
    if shaded:
        _shade(fig, shared)
    return fig


def _shade(fig: Any, shared: Frame) -> None:
    style = {"fault": (ORANGE, 0.10, None), "failback": (BLUE, 0.08, None), "relapse": (RED, 0.12, "/")}
    for kind, start_s, end_s in shared.shades:
        colour, alpha, hatch = style[kind]
        box = BoxAnnotation(
            left=start_s, right=end_s, fill_color=colour, fill_alpha=alpha, line_color=None,
            hatch_pattern=hatch, hatch_color=colour, hatch_alpha=0.3, level="underlay",
        )  # fmt: skip
        fig.add_layout(box)
    if (t := shared.recovered_s) is not None:
        fig.add_layout(Span(location=t, dimension="height", line_color=MUTED, line_dash="dashed", line_width=1))


def _dots(
    fig: Any,
    load: Load,
    rows: NDArray[np.intp],
    marker: str,
    colour: str,
    size: float,
    alpha: float,
    *,
    told: bool = False,
) -> Any:
    data: dict[str, Any] = {"x": _f4(load.x_s[rows]), "y": _f4(_three_digits(load.latency_ms[rows]))}
    if told:
        data["why"] = [
            f"{one_line(load.ops.error[r], 40) or 'too late'}, {one_line(load.ops.model[r], 40)}" for r in rows.tolist()
        ]
    renderer = fig.scatter(
        "x", "y", source=ColumnDataSource(data), marker=marker, size=size, alpha=alpha, color=colour,
        line_width=1.3 if marker == "x" else 0,
    )  # fmt: skip
    return _plain(renderer)


def _stack(fig: Any, bins: Bins, layers: Sequence[tuple[NDArray[Any], str, str | None, float]]) -> None:
    bottom = np.zeros(len(bins))
    for values, colour, hatch, alpha in layers:
        rows = np.flatnonzero(values)
        if not len(rows):
            continue
        top = bottom + values
        source = ColumnDataSource({"x": _f4(bins.middle_s[rows]), "b": _f4(bottom[rows]), "t": _f4(top[rows])})
        renderer = fig.vbar(
            x="x", bottom="b", top="t", width=bins.width_s, source=source, fill_color=colour, fill_alpha=alpha,
            line_color=None, hatch_pattern=hatch, hatch_color=TEXT, hatch_alpha=0.45, hatch_scale=7, hatch_weight=0.8,
        )  # fmt: skip
        _plain(renderer)
        bottom = top


def _plain(renderer: Any) -> Any:
    """Drops the glyphs for selections, which the page does not use and would have to carry."""
    renderer.update(nonselection_glyph=None, muted_glyph=None)
    return renderer


def _steps(bins: Bins, values: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A line through the bins as steps: each bin's value from its left to its right edge; empty bins are gaps."""
    x = np.repeat(bins.edges_s, 2)[1:-1]
    return _f4(x), _f4(np.repeat(values.astype(np.float64), 2))


def _label(text: str, x: float, y: float, colour: str, *, bold: bool = False, baseline: str = "middle") -> Label:
    return Label(
        x=x, y=y, text=text, x_offset=6, text_color=colour, text_font=_FONT, text_font_size="12px",
        text_font_style="bold" if bold else "normal", text_baseline=baseline,
    )  # fmt: skip


def _log_ticks(low: float, high: float) -> list[float]:
    found = [m * 10.0**e for e in range(-3, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return found if len(found) <= 9 else [t for t in found if f"{t:e}".startswith("1")]


def _top(values: NDArray[Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) * 1.12 if len(finite) and finite.max() > 0 else 1.0


def _three_digits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Three significant digits: what a dot can show, and what compresses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (2 - np.floor(np.log10(np.where(values > 0, values, 1.0))))
    rounded: NDArray[np.float64] = np.round(values * scale) / scale
    return rounded


def _f4(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.round(values, 4).astype(np.float32)
