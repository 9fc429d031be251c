"""The write-ahead journal: intent on disk (fsync) before every injection, outcome after it; one JSON object a line.

    begin     its owner, environment, and facts by which it can be healed without the dead process's memory; at first
    fleet     the facts again, once the fleet is up       intent    before an injection       outcome   after it
    end       everything was healed and stopped           restored  ``blackstart restore`` did it instead

Written by the run and by ``restore``, read by ``restore`` and by whoever asks whether a run is healed. A line that was
cut by a kill is no entry. It never decides anything.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from drills.engine.safety.owner import Owner
from history.errors import RecordingError


class Journal:
    """Appends entries to ``path``; each is on disk when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, entry: str, **fields: Any) -> None:
        """One entry; ``RecordingError`` when the disk does not take it."""
        append_line(self.path, {"entry": entry, "wall_unix_ns": time.time_ns(), "pid": os.getpid(), **fields})


@dataclass(frozen=True)
class JournalState:
    """What a journal says. ``healed``: nothing of the run can be left. ``hurt``: targets with an open intent.

    ``facts``: all that was said, the last word of each; ``said``: (environment, facts) of each entry, as a damaged one
    may have the last word.
    """

    begun: bool = False
    healed: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    hurt: tuple[str, ...] = ()
    owner: Owner | None = None
    said: tuple[tuple[str, dict[str, Any]], ...] = ()


class _Entry(msgspec.Struct):
    entry: str
    environment: str = ""
    facts: dict[str, Any] = {}
    target: str = ""
    healed: bool = False
    owner: Owner | None = None


_decode = msgspec.json.Decoder(_Entry).decode


def read_journal(path: Path) -> JournalState:
    """Reads as much as there is: a missing, half-written or damaged journal is never an error."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return JournalState()
    begun = healed = False
    owner: Owner | None = None
    said, facts, hurt = list[tuple[str, dict[str, Any]]](), dict[str, Any](), dict[str, bool]()
    for line in filter(None, lines):
        try:
            entry = _decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if entry.entry in ("begin", "fleet", "intent"):
            begun, healed = True, False
            owner, facts = entry.owner or owner, facts | entry.facts
            said += [(entry.environment, entry.facts)] if entry.entry != "intent" else []
            hurt |= {entry.target: True} if entry.entry == "intent" else {}
        elif entry.entry == "outcome" and entry.healed:
            hurt.pop(entry.target, None)
        elif entry.entry in ("end", "restored"):
            begun, healed, hurt = True, True, {}
    return JournalState(begun, healed, facts, tuple(hurt), owner, tuple(said))


def append_line(path: Path, record: Any) -> None:
    """Appends one JSON line and waits until it is on disk; a line that was cut before is kept apart from it."""
    line = msgspec.json.encode(record) + b"\n"
    try:
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordingError(
            f"cannot write the journal {path}: {error.strerror}",
            hint="nothing is injected without it; free space or choose another place with --out DIR",
        ) from error
