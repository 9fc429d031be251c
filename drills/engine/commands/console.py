"""The consoles of the command line: plain text in, no markup; wide where nobody's terminal sets a width."""

from __future__ import annotations

import sys

from rich.console import Console

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
