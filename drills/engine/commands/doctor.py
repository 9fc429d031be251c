"""``blackstart doctor``: what each environment needs, what is there, and the command that mends what is not."""

from __future__ import annotations

import click

from drills.engine.commands.console import console_out
from fleet.checkup import Finding, findings


@click.command("doctor")
def command() -> int:
    """Say for each environment what is there, what is missing, and the command that mends it. Changes nothing.

    Exit 0 when the environment local has what it needs; what kind lacks is told all the same.
    """
    console = console_out()
    found = findings()
    for environment in dict.fromkeys(one.environment for one in found):
        mine = [one for one in found if one.environment == environment]
        console.print(f"{environment}: {summary(mine)}")
        for one in mine:
            mark = "✓" if one.ok else "✗" if one.needed else "-"
            console.print(f" {mark} {one.what}: {one.seen}")
            if not one.ok:
                console.print(f"     {'Next' if one.needed else 'Better'}: {one.mend}")
    return 1 if any(one.needed and not one.ok and one.environment == "local" for one in found) else 0


def summary(found: list[Finding]) -> str:
    """ready, or how much is missing."""
    missing = sum(one.needed and not one.ok for one in found)
    return "ready" if not missing else f"NOT ready, {missing} missing"
