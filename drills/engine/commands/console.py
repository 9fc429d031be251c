"""The consoles of the command line: plain text in, no markup; wide where nobody's terminal sets a width."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160


def console_out(*, stderr: bool = False) -> Console:
    """Standard output; or standard error, for messages that are no result. Lines are left to the terminal to wrap."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True, width=width)


class _Table(Table):
    """Its lines end with their last letter: what is copied from a terminal has no blanks at the end."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rendered = (part for part in super().__rich_console__(console, options) if isinstance(part, Segment))
        for line in Segment.split_lines(rendered):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
            yield from line
            yield Segment.line()


def table_of(*columns: str, rows: Iterable[Iterable[object]] = (), right: tuple[str, ...] = (), **look: Any) -> Table:
    """A table without lines, as all commands show them; ``right``: the columns that hold figures."""
    made = _Table(box=None, **{"header_style": "dim"} | look)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return made
