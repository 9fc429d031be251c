"""``RunDirectory``: the names of everything in a run's directory, and how each file is written and read.

header.json          RunHeader, before the first op         schedule.json.gz   every intended send
ops/PROCESS.jsonl    one writer a process, during the run   history.jsonl.gz   all ops merged, after it
result.json          what assertions made of it             report.html  junit.xml  summary.md
drill.py             the drill's text                       logs/            what processes printed
journal.jsonl        intents on disk before each injection
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from history.errors import RecordingError, UsageError
from history.records import SCHEMA_VERSION, RunHeader


@dataclass(frozen=True, eq=False)
class Schedule:
    """The open-loop plan: for each send its offset from LOAD_START in ns (sorted) and its index in ``Mix.entries``.

    Arrays have one entry a send; the index in them is the op's ``seq``.
    """

    offset_ns: NDArray[np.int64]
    entry: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.offset_ns)


@dataclass(frozen=True)
class RunDirectory:
    """A run's directory by path; creates nothing until asked to write."""

    path: Path

    header = property(lambda self: self.path / "header.json")
    schedule = property(lambda self: self.path / "schedule.json.gz")
    ops = property(lambda self: self.path / "ops")
    history = property(lambda self: self.path / "history.jsonl.gz")
    result = property(lambda self: self.path / "result.json")
    report = property(lambda self: self.path / "report.html")
    junit = property(lambda self: self.path / "junit.xml")
    summary = property(lambda self: self.path / "summary.md")
    drill = property(lambda self: self.path / "drill.py")
    logs = property(lambda self: self.path / "logs")
    journal = property(lambda self: self.path / "journal.jsonl")
    stop = property(lambda self: self.path / "stop")

    def ops_file(self, process: str) -> Path:
        """The file that the writer of ``process`` appends to."""
        return self.path / "ops" / f"{process}.jsonl"

    def write_header(self, header: RunHeader) -> None:
        """Writes ``header.json`` whole or not at all."""
        write_atomic(self.header, pretty_json(header))

    def read_header(self) -> RunHeader:
        """Reads ``header.json``; ``UsageError`` where this is no run directory or one of another version."""
        try:
            header = msgspec.json.decode(self.header.read_bytes(), type=RunHeader)
        except FileNotFoundError as error:
            raise UsageError(
                f"{self.path} is not a run directory: it has no header.json",
                hint="give the directory that `blackstart run` printed, for example runs/cluster-loss-…",
            ) from error
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            raise UsageError(
                f"{self.header} cannot be read: {error}",
                hint="the file is damaged or was written by another version of blackstart",
            ) from error
        if header.schema_version != SCHEMA_VERSION:
            raise UsageError(
                f"{self.header} has schema version {header.schema_version}; this blackstart reads {SCHEMA_VERSION}",
                hint="read it with the version of blackstart that it names under versions",
            )
        return header

    def write_schedule(self, schedule: Schedule) -> None:
        """Writes the plan before the load starts, so that a send without a record is still known."""
        data = msgspec.json.encode({"offset_ns": schedule.offset_ns.tolist(), "entry": schedule.entry.tolist()})
        write_atomic(self.schedule, gzip.compress(data, compresslevel=6, mtime=0))

    def read_schedule(self) -> Schedule:
        """Reads the plan; ``UsageError`` when it is missing or damaged."""
        try:
            raw = msgspec.json.decode(gzip.decompress(self.schedule.read_bytes()), type=dict[str, list[int]])
            read = Schedule(np.array(raw["offset_ns"], np.int64), np.array(raw["entry"], np.int16))
            if len(read.offset_ns) != len(read.entry):
                raise ValueError(f"{len(read.offset_ns)} offsets for {len(read.entry)} sends")
            return read
        except (OSError, EOFError, KeyError, ValueError, OverflowError, msgspec.MsgspecError, zlib.error) as error:
            raise UsageError(
                f"{self.schedule} cannot be read: {error}",
                hint="without the schedule nobody knows how many sends are missing; this run cannot be judged",
            ) from error


def pretty_json(value: Any) -> bytes:
    """Indented JSON with a final newline; the same value gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"


def write_atomic(path: Path, data: bytes) -> None:
    """Writes ``data`` whole or not at all."""
    with atomic(path, "free space or choose another place with --out DIR") as file:
        file.write(data)


@contextmanager
def atomic(path: Path, hint: str) -> Iterator[BinaryIO]:
    """A neighbour to write to, then fsynced and renamed; readers see the old file or the new one, never a part.

    ``RecordingError`` with ``hint`` when the disk does not take it.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RecordingError(f"cannot write {path}: {error.strerror}", hint=hint) from error
