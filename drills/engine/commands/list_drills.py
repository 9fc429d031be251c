"""``blackstart list``: every drill that can be run from here, without executing one."""

from __future__ import annotations

from pathlib import Path

import click

from drills.engine.commands.console import console_out, table_of
from drills.engine.safety.loader import find_all


@click.command("list")
def command() -> None:
    """List the drills that come with blackstart and those in ./drills.

    A drill is one Python file; its name is the file's name with hyphens, its summary the first line of its docstring.
    One in ./drills that is called as one of blackstart's is listed, and run, by its path.
    """
    rows = [(name, file.summary) for name, file in sorted(find_all(Path.cwd()).items())]
    console_out().print(table_of("drill", "summary", rows=rows, pad_edge=False, show_header=False))
