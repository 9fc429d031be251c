"""The reader: merges the ops of all processes of a run and reads them into columns.

Requests (load, canary, cluster prober) become numpy columns, a million of them in a few seconds; all other ops are
few and stay objects (``events``). ``LoadTable`` joins the schedule with the records, one row a scheduled send, so
that a send that nobody recorded is an unknown op and not a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from history.files import TRUNCATED, blocks
from history.files import merge as merge
from history.op import LOAD, LOAD_START, LOAD_STOP, NEVER, NO_RECORD, REQUEST_SOURCES, Op, decode, encode
from history.records import RunHeader
from history.rundir import RunDirectory, Schedule

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]

OUTCOMES = ("ok", "fail", "unknown")
_INT_FIELDS = ("t_intended", "t_sent", "t_first_byte", "t_done", "seq", "status", "tokens_expected", "tokens")
_TEXT_FIELDS = (
    *("source", "process", "kind", "model", "cluster", "node", "replica", "error", "weights", "outcome", "fallback"),
)
_MOST = 2**62
"""No time or count of a run is larger; a line that says so is damaged."""
_DAMAGE = (msgspec.MsgspecError, ValueError, RecursionError)
_decode_lines = msgspec.json.Decoder(Op).decode_lines


@dataclass(frozen=True, eq=False)
class Text:
    """A column of repeated words: ``words[codes[i]]`` is row i. ``words[0]`` is always the empty word."""

    codes: Codes
    words: tuple[str, ...]

    def code(self, word: str) -> int:
        """The code of ``word``; ``NEVER`` when no row has it."""
        try:
            return self.words.index(word)
        except ValueError:
            return NEVER

    def where(self, word: str) -> NDArray[np.bool_]:
        """True for each row that is ``word``."""
        found: NDArray[np.bool_] = self.codes == self.code(word)
        return found

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Text:
        """The same words for a choice of rows."""
        return Text(self.codes[rows], self.words)

    def __getitem__(self, row: int) -> str:
        return self.words[int(self.codes[row])]


@dataclass(frozen=True, eq=False)
class Requests:
    """Request ops in columns, sorted by (t_intended, source, seq). All arrays have one entry an op."""

    t_intended: Ints
    t_sent: Ints
    t_first_byte: Ints
    t_done: Ints
    seq: Ints
    status: Ints
    tokens_expected: Ints
    tokens: Ints
    source: Text
    process: Text
    kind: Text
    model: Text
    cluster: Text
    node: Text
    replica: Text
    error: Text
    weights: Text
    outcome: Text
    fallback: Text

    def __len__(self) -> int:
        return len(self.t_intended)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Requests:
        """A choice of rows, in the order given."""
        ints = {name: getattr(self, name)[rows] for name in _INT_FIELDS}
        texts = {name: getattr(self, name).take(rows) for name in _TEXT_FIELDS}
        return _requests(ints, texts)


@dataclass(frozen=True, eq=False)
class History:
    """All ops of a run: requests in columns, the rest as objects by t_intended. ``damaged`` lines were skipped."""

    requests: Requests
    events: tuple[Op, ...]
    damaged: int = 0
    truncated: bool = False
    """The merged file ends early or fails its checksum: anything in it may be missing or altered."""

    def of_kind(self, *kinds: str) -> tuple[Op, ...]:
        """Events of these kinds, in time order."""
        return tuple(op for op in self.events if op.kind in kinds)


@dataclass(frozen=True, eq=False)
class Run:
    """What assertions and reports read: the header, the plan and the history of one run."""

    header: RunHeader
    schedule: Schedule
    history: History
    load: Requests = field(init=False)
    """One row a send that was due before the load stopped, in schedule order: recorded, or unknown ``no-record``.
    A fine-tune's ops have its pool as their model."""
    duplicates: int = field(init=False)
    """Load ops beyond the first for a ``seq``, or for a send that was not due: always 0 in a sound run."""

    def __post_init__(self) -> None:
        load, duplicates = _join(self.header, self.schedule, self.history)
        object.__setattr__(self, "load", _by_pool(self.header, load))
        object.__setattr__(self, "duplicates", duplicates)


class Words(dict[str, int]):
    """Word -> code; a new word gets the next code."""

    def __missing__(self, word: str) -> int:
        self[word] = code = len(self)
        return code


class ColumnBuilder:
    """Collects ops chunk by chunk into columns; memory is the columns plus one chunk of objects."""

    def __init__(self) -> None:
        self._ints: dict[str, list[Ints]] = {name: [] for name in _INT_FIELDS}
        self._texts: dict[str, list[Codes]] = {name: [] for name in _TEXT_FIELDS}
        self._words = {name: Words({"": 0}) for name in _TEXT_FIELDS}
        self.events: list[Op] = []

    def add(self, ops: Sequence[Op]) -> int:
        """Takes a chunk of ops of any source; returns how many it refused because a time or count was out of range."""
        requests = [op for op in ops if op.source in REQUEST_SOURCES]
        refused = 0
        if len(requests) < len(ops):
            events = [op for op in ops if op.source not in REQUEST_SOURCES]
            self.events += [op for op in events if _in_range(op)]
            refused += len(events) - sum(map(_in_range, events))
        if requests and not self._add_requests(requests):
            sound = [op for op in requests if _in_range(op)]
            refused += len(requests) - len(sound)
            self._add_requests(sound)
        return refused

    def _add_requests(self, requests: list[Op]) -> bool:
        """False, and nothing added, when a number does not fit."""
        count = len(requests)
        try:
            ints = {name: np.fromiter(map(attrgetter(name), requests), np.int64, count) for name in _INT_FIELDS}
        except OverflowError:
            return False
        if count and any(int(column.max()) > _MOST or int(column.min()) < -_MOST for column in ints.values()):
            return False
        for name, column in ints.items():
            self._ints[name].append(column)
        for name in _TEXT_FIELDS:
            code = self._words[name].__getitem__
            self._texts[name].append(np.fromiter(map(code, map(attrgetter(name), requests)), np.int32, count))
        return True

    def build(self, damaged: int = 0, truncated: bool = False) -> History:
        """The history of everything added so far; the builder can go on collecting."""
        ints = {name: np.concatenate(parts) if parts else np.empty(0, np.int64) for name, parts in self._ints.items()}
        texts = {
            name: Text(np.concatenate(parts) if parts else np.empty(0, np.int32), tuple(self._words[name]))
            for name, parts in self._texts.items()
        }
        requests = _requests(ints, texts)
        order = np.lexsort((requests.seq, requests.source.codes, requests.t_intended))
        if not _is_arange(order):
            requests = requests.take(order)
        events = tuple(sorted(self.events, key=lambda op: (op.t_intended, op.t_done, op.source, op.kind, encode(op))))
        return History(requests, events, damaged, truncated)


def _in_range(op: Op) -> bool:
    return all(-_MOST <= getattr(op, name) <= _MOST for name in _INT_FIELDS)


def _is_arange(order: NDArray[np.intp]) -> bool:
    return bool(np.array_equal(order, np.arange(len(order))))


def columns(ops: Iterable[Op]) -> History:
    """Ops in memory -> history; what tests and scripted histories use."""
    builder = ColumnBuilder()
    builder.add(list(ops))
    return builder.build()


def read_run(path: Path) -> Run:
    """Reads a run: merged history where it exists, else the parts (the harness died). ``UsageError`` if none."""
    directory = RunDirectory(path)
    return Run(directory.read_header(), directory.read_schedule(), read_history(directory))


def read_history(directory: RunDirectory) -> History:
    """All readable ops of a run; damaged lines are counted, never guessed.

    The merged file, and the parts that it does not hold yet (a merge that was killed, ops recorded after it).
    """
    builder, damaged, truncated = ColumnBuilder(), 0, False
    for block in blocks(directory):
        ops, bad = _decode_block(block)
        damaged += bad + builder.add(ops)
        if block is TRUNCATED:
            truncated = True
    return builder.build(damaged, truncated)


def _decode_block(block: bytes) -> tuple[list[Op], int]:
    """(ops, damaged lines) of a block of whole lines."""
    try:
        return _decode_lines(block), 0
    except _DAMAGE:
        ops, bad = [], 0
        for line in block.split(b"\n"):
            try:
                if line.strip():
                    ops.append(decode(line))
            except _DAMAGE:
                bad += 1
        return ops, bad


def _join(header: RunHeader, schedule: Schedule, history: History) -> tuple[Requests, int]:
    """The load table: one row a send due before the load stopped (or before the last op, if no stop was recorded)."""
    mine = history.requests.source.where(LOAD)
    recorded = history.requests if bool(mine.all()) else history.requests.take(mine)
    start, stop = load_bounds(history)
    if start == NEVER:
        return recorded, 0
    due = int(np.searchsorted(schedule.offset_ns, stop - start, side="left"))
    if len(recorded) == due and _is_arange(recorded.seq):
        return recorded, 0
    seq = recorded.seq
    valid = (seq >= 0) & (seq < due)
    first = np.zeros(len(seq), np.bool_)
    _, where = np.unique(seq, return_index=True)
    first[where] = True
    kept = recorded.take(valid & first)
    extra = len(recorded) - len(kept)
    missing = np.setdiff1d(np.arange(due), kept.seq, assume_unique=True)
    if len(missing):
        kept = _concat(kept, _no_records(header, schedule, start, missing))
    return kept.take(np.argsort(kept.seq, kind="stable")), extra


def load_bounds(history: History) -> tuple[int, int]:
    """(start, stop) of the load in monotonic ns; ``(NEVER, NEVER)`` before it started.

    Without a recorded stop (the harness was killed) the load counts until the last instant that any process recorded.
    """
    starts, stops = history.of_kind(LOAD_START), history.of_kind(LOAD_STOP)
    if not starts:
        return NEVER, NEVER
    if stops:
        return starts[0].t_intended, stops[-1].t_intended
    last = max((op.t_done for op in history.events), default=NEVER)
    if len(history.requests):
        last = max(last, int(history.requests.t_sent.max()))
    return starts[0].t_intended, last + 1


def _by_pool(header: RunHeader, load: Requests) -> Requests:
    """The same ops, a fine-tune's under the name of its pool."""
    pools = {name: model.name for model in header.fleet.models for name in model.fine_tunes}
    if not pools:
        return load
    words = {word: code for code, word in enumerate(dict.fromkeys(pools.get(w, w) for w in load.model.words))}
    lookup = np.array([words[pools.get(word, word)] for word in load.model.words], np.int32)
    return replace(load, model=Text(lookup[load.model.codes], tuple(words)))


def _no_records(header: RunHeader, schedule: Schedule, start: int, missing: NDArray[np.int64]) -> Requests:
    """Unknown ops for sends that nobody recorded: what the schedule and the mix say of them."""
    count, entries = len(missing), header.mix.entries
    ints = {name: np.full(count, NEVER, np.int64) for name in _INT_FIELDS}
    ints |= {name: np.zeros(count, np.int64) for name in ("status", "tokens_expected", "tokens")}
    ints |= {"seq": missing, "t_intended": start + schedule.offset_ns[missing]}
    texts = {name: Text(np.zeros(count, np.int32), ("",)) for name in _TEXT_FIELDS}
    constant = {"source": LOAD, "error": NO_RECORD, "outcome": "unknown"}
    texts |= {name: Text(np.ones(count, np.int32), ("", word)) for name, word in constant.items()}
    entry = schedule.entry[missing].astype(np.int32) + 1
    texts["kind"] = Text(entry, ("", *(one.kind for one in entries)))
    texts["model"] = Text(entry, ("", *(one.model for one in entries)))
    return _requests(ints, texts)


def _requests(ints: dict[str, Ints], texts: dict[str, Text]) -> Requests:
    fields: dict[str, Any] = {**ints, **texts}
    return Requests(**fields)


def _concat(a: Requests, b: Requests) -> Requests:
    ints = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in _INT_FIELDS}
    texts = {}
    for name in _TEXT_FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        words = {word: code for code, word in enumerate(left.words)}
        for word in right.words:
            words.setdefault(word, len(words))
        lookup = np.array([words[word] for word in right.words], np.int32)
        texts[name] = Text(np.concatenate([left.codes, lookup[right.codes]]), tuple(words))
    return _requests(ints, texts)
