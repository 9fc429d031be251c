"""The consoles of the command line: plain text in, no markup; wide where nobody's terminal sets a width."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 160


def out() -> Console:
    """Standard output."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error, for messages that are no result."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, width=width)


def table_of(*columns: str, right: tuple[str, ...] = (), **look: Any) -> Table:
    """An empty table without lines, as all commands show them; ``right``: the columns that hold figures."""
    made = Table(box=None, **{"header_style": "dim"} | look)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    return made
