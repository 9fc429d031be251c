"""The consoles of the command line: plain text in, no markup; wide where nobody's terminal sets a width."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160


def console_out() -> Console:
    """Standard output."""
    return _console(stderr=False)


def console_err() -> Console:
    """Standard error, for messages that are no result."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, width=width)


def table_of(*columns: str, rows: Iterable[Iterable[object]] = (), right: tuple[str, ...] = (), **look: Any) -> Table:
    """A table without lines, as all commands show them; ``right``: the columns that hold figures."""
    made = Table(box=None, **{"header_style": "dim"} | look)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return made
