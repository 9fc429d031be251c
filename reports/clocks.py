"""A replay's own clock: what a run shows in the time that it stands for, beside what was told in that outage.

Called by html.py for runs with a time scale, a story or a restore in stages. Says nothing that no op supports; the
story's posts are shown as they were, never judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assertions.case import Case
from assertions.result import ModelRecovery, Result
from history.clock import NS_PER_S
from history.op import RESTORE_STAGE, Op
from history.reader import Run
from reports.tables import Table
from reports.timeline import Post
from reports.words import NONE, one_line, seconds

LEFT = "timeout"
"""The client hung up at its time-out: what a gateway counts as 499."""
FULL = "http-429"
BARS = "▁▂▃▄▅▆▇█"
CURVE_BINS = 40


@dataclass(frozen=True)
class Replay:
    """``clock``: the scale in words. ``told``: (outage's clock, run's, posted then, shown by the run).
    ``curves``: (class, what, curve as bars, sentence) of 429 and 499."""

    clock: str
    classes: Table
    stages: Table
    told: tuple[tuple[str, str, str, str], ...]
    curves: tuple[tuple[str, str, str, str], ...]


def build(case: Case, result: Result, posts: tuple[Post, ...]) -> Replay | None:
    """None for a run on its own clock without story and stages."""
    header, scale = case.run.header, case.run.header.time_scale
    stages = case.run.history.of_kind(RESTORE_STAGE)
    if scale == 1.0 and not header.story and not stages:
        return None
    return Replay(
        clock=f"1 s of the run stands for {scale:g} s: 1 h is {3600 / scale:g} s." if scale != 1.0 else "",
        classes=_classes(result, scale),
        stages=_stages(case, stages, scale),
        told=_told(case.run, result, posts, scale),
        curves=_curves(case, result),
    )


def _stages(case: Case, stages: tuple[Op, ...], scale: float) -> Table:
    rows = []
    for op in stages[:40]:
        began_s, took_s = case.edges.seconds(op.t_intended), (op.t_done - op.t_intended) / NS_PER_S
        times = (stands_for(began_s, scale), stands_for(took_s, scale), f"{began_s:.1f} s")
        rows.append((one_line(str(op.detail.get("name", "")), 80), _check(op.detail), *times))
    return Table(("stage of the restore", "check", "began", "took", "in the run"), tuple(rows), text_columns=2)


def stands_for(t_s: float, scale: float) -> str:
    """A time of the run in the time that it stands for: 57.2 at 300 -> "4 h 46 min"."""
    value = t_s * scale
    if abs(value) < 60:
        return seconds(value)
    sign, whole = ("-" if value < 0 else ""), round(abs(value))
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    return f"{sign}{whole // 3600} h {whole % 3600 // 60:02d} min"


def both(t_s: float | None, scale: float) -> str:
    """Both clocks: "57.2 s (4 h 46 min)"; the run's alone where it stands for itself."""
    if t_s is None:
        return NONE
    return seconds(t_s) if scale == 1.0 else f"{seconds(t_s)} ({stands_for(t_s, scale)})"


def _classes(result: Result, scale: float) -> Table:
    rows = []
    for name, m in result.classes.items():
        dips = [w for w in result.windows if w.name == "relapse" and w.scope == name]
        rows.append(
            (
                one_line(name, 60),
                "unaffected" if m.unaffected else _recovered(m, scale),
                both(m.full_capacity_s, scale),
                both(dips[0].start_s, scale) if dips else NONE,
                f"{m.bad:,} of {m.sent:,}",
                f"{m.degraded:,}",
            )
        )
    head = ("class", "recovered", "full capacity", "second dip at", "bad", "degraded")
    note = "Recovered: the first proven hold. Degraded: answered by the advised fallback; counted as bad, told apart."
    return Table(head, tuple(rows), note)


def _recovered(m: ModelRecovery, scale: float) -> str:
    if m.recovered_s is None:
        return NONE
    low, high = m.recovered_s
    return f"> {both(low, scale)}" if high is None else both(high, scale)


def _check(detail: dict[str, object]) -> str:
    signals = detail.get("signals")
    seen = [str(s.get("seen", "")) for s in signals if isinstance(s, dict)] if isinstance(signals, list) else []
    parts = "; ".join(seen).split("; ")
    return one_line("; ".join([*parts[:2], f"and {len(parts) - 2} more"] if len(parts) > 3 else parts), 160) or NONE


def _told(run: Run, result: Result, posts: tuple[Post, ...], scale: float) -> tuple[tuple[str, str, str, str], ...]:
    """Both timelines in one order, by the outage's clock; the run's has when each class was back, and back in full."""
    story = [(post.minutes * 60 / scale, "", f"{post.wall}: {post.text}") for post in run.header.story]
    shown = [(post.t_s, f"{post.status}: {post.text}", "") for post in posts]
    for name, m in result.classes.items():
        back = m.recovered_s[1] if m.recovered_s else None
        for t, said in (
            (back, "recovered: its promise is kept again"),
            (m.full_capacity_s, "has all its replicas again"),
        ):
            if t is not None and not m.unaffected:
                shown.append((t, f"Monitoring: {name} {said}.", ""))
    return tuple(
        (stands_for(t, scale), f"{t:.1f} s", one_line(then, 300), one_line(now, 300))
        for t, now, then in sorted(story + shown)
    )


def _curves(case: Case, result: Result) -> tuple[tuple[str, str, str, str], ...]:
    """429 and 499 of each class that had any, as shares of its requests over the run."""
    load, found = case.load, []
    edges = np.linspace(float(load.x_s.min()), float(load.x_s.max()) + 1e-9, CURVE_BINS + 1) if len(load) else None
    for label, names in case.classes.items():
        if edges is None or label not in result.classes:
            continue
        mine = np.isin(load.ops.model.codes, [load.ops.model.code(name) for name in names])
        sent, _ = np.histogram(load.x_s[mine], edges)
        for error, word in ((FULL, "429"), (LEFT, "499")):
            count, _ = np.histogram(load.x_s[mine & load.ops.error.where(error)], edges)
            if count.sum() < 10:
                continue
            share = count / np.maximum(sent, 1)
            peak = int(np.argmax(share))
            at_s = float((edges[peak] + edges[peak + 1]) / 2)
            last = float(edges[int(np.flatnonzero(share >= 0.02)[-1]) + 1]) if (share >= 0.02).any() else 0.0
            bars = "".join(" " if s == 0 else BARS[min(7, int(s * 8))] for s in share)
            scale = case.run.header.time_scale
            said = f"at most {share[peak]:.0%}, about {both(at_s, scale)}; below 2 % for good after {both(last, scale)}"
            found.append((one_line(label, 60), word, bars, said))
    return tuple(found)
