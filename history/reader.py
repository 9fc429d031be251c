"""The reader: merges the ops of all processes of a run and reads them into columns.

Requests (load, canary, cluster prober) become numpy columns, a million of them in a few seconds; all other ops are
few and stay objects (``events``). ``LoadTable`` joins the schedule with the records, one row a scheduled send, so
that a send that nobody recorded is an unknown op and not a hole.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from history.op import DROPPED, LOAD, LOAD_START, LOAD_STOP, NEVER, NO_RECORD, REQUEST_SOURCES, Op, decode, encode
from history.records import RunHeader
from history.rundir import RunDirectory, Schedule, write_atomic

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]

OUTCOMES = ("ok", "fail", "unknown")
_INT_FIELDS = ("t_intended", "t_sent", "t_first_byte", "t_done", "seq", "status", "tokens_expected", "tokens")
_TEXT_FIELDS = ("source", "process", "kind", "model", "cluster", "node", "replica", "error", "weights", "outcome")
_CHUNK = 50_000


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
    """One row a send that was due before the load stopped, in schedule order: recorded, or unknown ``no-record``."""
    duplicates: int = field(init=False)
    """Load ops beyond the first for a ``seq``, or for a send that was not due: always 0 in a sound run."""

    def __post_init__(self) -> None:
        load, duplicates = _join(self.header, self.schedule, self.history)
        object.__setattr__(self, "load", load)
        object.__setattr__(self, "duplicates", duplicates)


class ColumnBuilder:
    """Collects ops chunk by chunk into columns; memory is the columns plus one chunk of objects."""

    def __init__(self) -> None:
        self._ints: dict[str, list[Ints]] = {name: [] for name in _INT_FIELDS}
        self._texts: dict[str, list[Codes]] = {name: [] for name in _TEXT_FIELDS}
        self._words: dict[str, dict[str, int]] = {name: {"": 0} for name in _TEXT_FIELDS}
        self.events: list[Op] = []

    def add(self, ops: Sequence[Op]) -> None:
        """Takes a chunk of ops of any source."""
        requests = [op for op in ops if op.source in REQUEST_SOURCES]
        if len(requests) < len(ops):
            self.events.extend(op for op in ops if op.source not in REQUEST_SOURCES)
        if not requests:
            return
        columns = dict(
            zip(Op.__struct_fields__, zip(*map(msgspec.structs.astuple, requests), strict=True), strict=True)
        )
        for name in _INT_FIELDS:
            self._ints[name].append(np.array(columns[name], np.int64))
        for name in _TEXT_FIELDS:
            words = self._words[name]
            for word in dict.fromkeys(columns[name]):
                words.setdefault(word, len(words))
            self._texts[name].append(np.array([words[word] for word in columns[name]], np.int32))

    def build(self, damaged: int = 0) -> History:
        """The history of everything added so far; the builder can go on collecting."""
        ints = {name: np.concatenate(parts) if parts else np.empty(0, np.int64) for name, parts in self._ints.items()}
        texts = {
            name: Text(np.concatenate(parts) if parts else np.empty(0, np.int32), tuple(self._words[name]))
            for name, parts in self._texts.items()
        }
        requests = _requests(ints, texts)
        order = np.lexsort((requests.seq, requests.source.codes, requests.t_intended))
        events = tuple(sorted(self.events, key=lambda op: (op.t_intended, op.t_done, op.source, op.kind, encode(op))))
        return History(requests.take(order), events, damaged)


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
    """All readable ops of a run; damaged lines are counted, never guessed."""
    builder, damaged = ColumnBuilder(), 0
    for lines in _line_chunks(directory):
        ops, bad = _decode_lines(lines)
        damaged += bad
        builder.add(ops)
    return builder.build(damaged)


def merge(directory: RunDirectory) -> int:
    """Writes ``history.jsonl.gz`` from all ``ops/*.jsonl`` (each op unchanged, in time order); returns damaged lines.

    The parts stay until the merged file is on disk, then they are removed. Damaged lines are kept at the end of the
    merged file as they are: evidence, and a later analysis counts them again.
    """
    parts = sorted(directory.ops.glob("*.jsonl"))
    if not parts:
        return 0
    keyed: list[tuple[int, str, int, bytes]] = []
    broken: list[bytes] = []
    for part in parts:
        for number, line in enumerate(part.read_bytes().split(b"\n")):
            if not line:
                continue
            try:
                keyed.append((decode(line).t_intended, part.name, number, line))
            except msgspec.MsgspecError:
                broken.append(line)
    keyed.sort()
    data = b"".join(line + b"\n" for *_, line in keyed) + b"".join(line + b"\n" for line in broken)
    write_atomic(directory.history, gzip.compress(data, compresslevel=5, mtime=0))
    for part in parts:
        part.unlink()
    directory.ops.rmdir()
    return len(broken)


def _line_chunks(directory: RunDirectory) -> Iterator[list[bytes]]:
    if directory.history.exists():
        yield from _gzip_lines(directory.history)
        return
    for part in sorted(directory.ops.glob("*.jsonl")):
        with part.open("rb") as file:
            while chunk := file.readlines(_CHUNK * 300):
                yield chunk


def _gzip_lines(path: Path) -> Iterator[list[bytes]]:
    with gzip.open(path, "rb") as file:
        try:
            while chunk := file.readlines(_CHUNK * 300):
                yield chunk
        except (EOFError, OSError, zlib.error):
            yield [b"truncated"]  # counts as one damaged line; what was readable before it is used


def _decode_lines(lines: list[bytes]) -> tuple[list[Op], int]:
    try:
        return [decode(line) for line in lines], 0
    except msgspec.MsgspecError:
        ops, bad = [], 0
        for line in lines:
            try:
                ops.append(decode(line))
            except msgspec.MsgspecError:
                bad += bool(line.strip())
        return ops, bad


def _join(header: RunHeader, schedule: Schedule, history: History) -> tuple[Requests, int]:
    """The load table: one row a send due before the load stopped (or before the last op, if no stop was recorded)."""
    recorded = history.requests.take(history.requests.source.where(LOAD))
    start, stop = load_bounds(history)
    if start == NEVER:
        return recorded, 0
    due = int(np.searchsorted(schedule.offset_ns, stop - start, side="left"))
    seq = recorded.seq
    valid = (seq >= 0) & (seq < due)
    first = np.zeros(len(seq), np.bool_)
    _, where = np.unique(seq, return_index=True)
    first[where] = True
    kept = recorded.take(valid & first)
    missing = np.setdiff1d(np.arange(due), kept.seq, assume_unique=True)
    if len(missing):
        builder = ColumnBuilder()
        builder.add([_no_record(header, schedule, start, int(i)) for i in missing])
        kept = _concat(kept, builder.build().requests)
    order = np.argsort(kept.seq, kind="stable")
    return kept.take(order), len(recorded) - int(np.count_nonzero(valid & first))


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


def _no_record(header: RunHeader, schedule: Schedule, start: int, seq: int) -> Op:
    entry = header.mix.entries[int(schedule.entry[seq])]
    return Op(
        source=LOAD,
        process="",
        kind=entry.kind,
        t_intended=start + int(schedule.offset_ns[seq]),
        outcome="unknown",
        seq=seq,
        model=entry.model,
        error=NO_RECORD,
    )


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


def is_dropped(requests: Requests) -> NDArray[np.bool_]:
    """True for each row that was scheduled and never sent, as far as the records say."""
    return requests.error.where(DROPPED) | requests.error.where(NO_RECORD)
