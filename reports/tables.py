"""Tables of the page: bins behind the charts, errors by kind, slowest ops, steady state. Plain text cells.

Called by the template, which escapes. Never longer than the limits given here, whatever the run's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assertions.case import Case
from assertions.phases import replacements as replacements_of
from assertions.phases import stamp_ns
from assertions.result import Result
from assertions.scopes import Load
from history.op import NEVER, REPLICA_CREATED, REPLICA_READY, REPLICA_SCHEDULED, REPLICA_STARTED, REPLICA_WEIGHTS
from reports.metrics import Line
from reports.series import Bins, Shares, quantile
from reports.words import NONE, milliseconds, number, one_line, percent, seconds

MAX_BIN_ROWS = 60
MAX_ERRORS = 20
MAX_SLOWEST = 10
MAX_REPLACEMENTS = 60
SAID = {
    REPLICA_CREATED: "created",
    REPLICA_SCHEDULED: "scheduled",
    REPLICA_STARTED: "started",
    REPLICA_WEIGHTS: "weights",
    REPLICA_READY: "ready",
}
"""What a cluster says of a replica on its way, in its natural order."""


@dataclass(frozen=True)
class Table:
    """A head and rows of cells. ``numeric`` columns are set right-aligned; ``note`` says what was left out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: int = 1
    """How many columns from the left are words; the others are figures."""


def latency(bins: Bins) -> Table:
    """Quantiles of complete answers a bin."""
    quantiles = ([milliseconds(_number(v)) for v in values] for values in (bins.p50, bins.p95, bins.p99))
    return _by_bin(bins, ("p50", "p95", "p99", "sent"), [*quantiles, _counts(bins.offered)])


def outcomes(bins: Bins) -> Table:
    """Counts by outcome a bin."""
    names = ("offered", "good", "bad", "unknown")
    return _by_bin(bins, names, [_counts(getattr(bins, name)) for name in names])


def shares(bins: Bins, served: Shares) -> Table:
    """Percent of sends a bin by the cluster that answered."""
    parts = [
        [percent(float(c), float(all_)) for c, all_ in zip(one, bins.offered, strict=True)] for one in served.counts
    ]
    return _by_bin(bins, served.names, parts)


def _by_bin(bins: Bins, names: Sequence[str], columns: Sequence[Sequence[str]]) -> Table:
    starts = [f"{left:g} s" for left in bins.left_s]
    note = f"Each row is {bins.width_s:g} s of intended send time."
    return Table(("from", *names), tuple(zip(starts, *columns, strict=True)), note)


def _counts(values: NDArray[np.int64]) -> list[str]:
    return [number(int(value)) for value in values]


def lines(series: Sequence[Line], form: str = "{:,.4g}") -> Table:
    """Prometheus lines, thinned to the row limit."""
    if not series:
        return Table((), ())
    x = series[0][1]
    rows: list[int] = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_BIN_ROWS)).astype(int)).tolist()
    cells = [(f"{x[r]:.1f} s", *(form.format(y[r]) if np.isfinite(y[r]) else NONE for _, _, y in series)) for r in rows]
    return Table(("at", *(name for name, _, _ in series)), tuple(cells))


def errors(load: Load) -> Table:
    """Bad and unknown sends by error, with the phase they fell in; at most ``MAX_ERRORS`` kinds."""
    rows = np.flatnonzero(~load.good)
    tally: dict[tuple[str, str], NDArray[np.intp]] = {}
    for code in np.unique(load.ops.error.codes[rows]).tolist():
        for what, mask in (("bad", load.bad), ("unknown", load.unknown)):
            hit = rows[(load.ops.error.codes[rows] == code) & mask[rows]]
            if len(hit):
                word = load.ops.error.words[code] or "too late (answered after the limit)"
                tally[(word, what)] = hit
    ranked = sorted(tally.items(), key=lambda item: (-len(item[1]), item[0]))
    cells = []
    for (word, what), hit in ranked[:MAX_ERRORS]:
        x = load.x_s[hit]
        cells.append((one_line(word, 120), what, f"{len(hit):,}", seconds(float(x.min())), seconds(float(x.max()))))
    left = len(ranked) - MAX_ERRORS
    note = f"{left:,} rarer kinds are left out." if left > 0 else ""
    return Table(("error", "outcome", "count", "first sent", "last sent"), tuple(cells), note, text_columns=2)


def slowest(load: Load) -> Table:
    """The slowest sends that ended."""
    ended = np.flatnonzero(np.isfinite(load.latency_ms))
    rows = ended[np.argsort(-load.latency_ms[ended], kind="stable")[:MAX_SLOWEST]]
    cells = []
    for row in rows.tolist():
        seq = int(load.ops.seq[row])
        cells.append(
            (
                one_line(load.ops.model[row], 80),
                one_line(load.ops.cluster[row], 40) or "nobody",
                one_line(load.ops.error[row], 60) or ("good" if load.good[row] else "too late"),
                f"{load.x_s[row]:.3f} s",
                milliseconds(float(load.latency_ms[row])),
                str(seq) if seq != NEVER else NONE,
            )
        )
    return Table(("model", "served by", "outcome", "sent at", "took", "seq"), tuple(cells), text_columns=3)


def steady_state(load: Load, result: Result) -> Table:
    """Windows of the fleet side by side: rate, good share, quantiles of complete answers."""
    rows = []
    for window in result.windows:
        if window.scope != "fleet" or window.end_s <= window.start_s:
            continue
        inside = load.in_window(window.name)
        if not inside.any():  # a window of the scope's own, which the judged load does not know by name
            inside = (load.x_s >= window.start_s) & (load.x_s < window.end_s)
        took = load.latency_ms[inside & load.ok]
        sent = int(np.count_nonzero(inside))
        rows.append(
            (
                one_line(window.name, 40),
                f"{seconds(window.start_s)} to {seconds(window.end_s)}",
                f"{sent / (window.end_s - window.start_s):.1f}/s",
                percent(float(np.count_nonzero(inside & load.good)), sent),
                *(milliseconds(quantile(took, p)) for p in (50, 95, 99)),
            )
        )
    return Table(("window", "when", "rate", "good", "p50", "p95", "p99"), tuple(rows), text_columns=2)


def replacements(case: Case) -> Table:
    """Each replica that replaced a lost one: seconds from the injection call to what its cluster said of it first."""
    said: dict[tuple[str, str], dict[str, float]] = {}
    model, node = dict[tuple[str, str], str](), dict[tuple[str, str], str]()
    for op in sorted(replacements_of(case), key=stamp_ns):
        if op.kind in SAID:
            one = op.cluster, op.replica
            said.setdefault(one, {}).setdefault(op.kind, case.edges.since(stamp_ns(op)))
            model[one], node[one] = op.model, op.node or node.get(one, "")
    soonest = sorted(said, key=lambda one: (max(said[one].values()), one))
    cells = [
        (
            one_line(model[one], 80),
            one_line(one[1], 80),
            one_line(node[one] or one[0], 60),
            *(seconds(said[one].get(kind)) for kind in SAID),
        )
        for one in soonest[:MAX_REPLACEMENTS]
    ]
    note = "Each as it was heard first. That a replica was started may be said late (a kubelet looks once a second), "
    note += "and so after its weights are there."
    left = len(soonest) - len(cells)
    note += f" {left:,} more are left out here." if left else ""
    return Table(("model", "replica", "node", *SAID.values()), tuple(cells), note, text_columns=3)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
