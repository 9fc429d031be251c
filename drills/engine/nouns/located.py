"""``Located``: every noun of a drill script remembers the line that wrote it, so that an error can point there."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

_ENGINE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Where:
    """A place in a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, and a sentence that quotes the value and states the rule."""

    where: Where
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def caller() -> Where:
    """The nearest frame that is neither the engine nor a generated ``__init__``: the line of the drill script."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_ENGINE, "<")):
            break
        frame = frame.f_back
    return Where(frame.f_code.co_filename, frame.f_lineno)


@dataclass(frozen=True)
class Located:
    """Base of nouns; ``where`` is filled in by itself and is no part of the value."""

    where: Where = field(default_factory=caller, compare=False, repr=False, kw_only=True)

    def problem(self, text: str) -> Problem:
        """A problem of this noun."""
        return Problem(self.where, text)
