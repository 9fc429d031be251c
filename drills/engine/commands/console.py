"""The consoles of the command line: plain text in, no markup; wide where nobody's terminal sets a width."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160


def console_out(*, stderr: bool = False) -> Console:
    """Standard output; or standard error, for messages that are no result. Lines are left to the terminal to wrap."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True, width=width)


def table_of(*columns: str, rows: Iterable[Iterable[object]] = (), right: tuple[str, ...] = (), **look: Any) -> Table:
    """A table without lines, as all commands show them; ``right``: the columns that hold figures."""
    made = Table(box=None, **{"header_style": "dim"} | look)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return made
