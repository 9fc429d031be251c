"""``blackstart``: the group of commands, and how every error becomes a message and an exit code.

Exit codes: 0 pass, 1 fail, 2 unknown, 3 the harness failed, 4 usage, 130 interrupted (after healing).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from importlib import import_module

import click
from rich.console import Console

from drills.engine.commands.console import console_out
from history.errors import BlackstartError, UsageError

COMMANDS = {
    "list": ("drills.engine.commands.list_drills", "List the drills there are."),
    "plan": ("drills.engine.commands.plan", "Show what a drill would do, without doing it."),
    "forecast": ("drills.engine.commands.forecast", "Say which cluster a fleet can afford to lose."),
    "run": ("drills.engine.commands.run", "Run a drill and judge it."),
    "analyze": ("drills.engine.commands.analyze", "Judge a run directory again, from its records."),
    "watch": ("drills.engine.commands.watch", "Show a running drill from another terminal, read-only."),
    "restore": ("drills.engine.commands.restore", "Heal whatever a killed run left."),
    "fleet": ("drills.engine.commands.fleet", "Keep a fleet of real clusters up between drills: up, status, down."),
    "doctor": ("drills.engine.commands.doctor", "Say what each environment needs, and what is missing."),
    "report": ("drills.engine.commands.report", "Write the pages of a run directory again."),
}
"""Name -> (module, one line for ``--help``)."""


PIPE_CLOSED_EXIT = 141
"""What shells say of a program that SIGPIPE ended."""


class LazyGroup(click.Group):
    """Loads a command's module when it is asked for, so that ``--help`` and mistakes are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="blackstart")
def cli() -> None:
    """Kill a whole cluster of a model-serving fleet under load, and prove how long recovery took.

    \b
    blackstart list                    what drills there are
    blackstart plan cluster-loss       what would happen: targets, steps, forecast; touches nothing
    blackstart forecast FLEET.toml     which cluster can I afford to lose? runs nothing
    blackstart run cluster-loss        do it; ends with verdict, figures and the path of report.html
    blackstart analyze RUN             judge a run directory again (same bytes)
    blackstart report RUN              write its pages again (same bytes)
    blackstart watch [RUN]             see a running drill from another terminal
    blackstart restore [RUN]           heal whatever a killed run left
    blackstart fleet up                three real Kubernetes clusters, for run --env kind
    blackstart doctor                  what this machine has of what each environment needs

    \b
    Exit codes: 0 pass · 1 fail · 2 unknown · 3 the harness failed · 4 usage · 130 interrupted
    """


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code. Never lets a traceback of a known error through."""
    console = console_out(stderr=True)
    try:
        code = cli.main(args=arguments, prog_name="blackstart", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 4
    except (click.Abort, KeyboardInterrupt):
        console.print("Interrupted; nothing is left running.")
        return 130
    except BlackstartError as error:
        print_error(console, error, as_json="--json" in arguments)
        return error.exit_code
    except (Exception, SystemExit) as error:  # an exit from elsewhere must never look like a pass
        if isinstance(error.__context__, OSError) and error.__context__.errno == errno.EPIPE:
            return PIPE_CLOSED_EXIT  # click's way of ending when nobody reads on: `blackstart plan … | head`
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails once more at its exit
            console.print(f"Error: the output cannot be written: {error.strerror}")
            console.print("Next: free space, or send the output elsewhere")
            return 3
        console.print(traceback.format_exc())
        console.print("This is a defect of blackstart; the run directory, if one was named above, is kept.")
        return 3
    return code if isinstance(code, int) else 0


def print_error(console: Console, error: BlackstartError, *, as_json: bool = False) -> None:
    """Message, every problem, next step; ``as_json``: on standard output as one JSON object too."""
    problems = error.problems if isinstance(error, UsageError) else ()
    if as_json:
        click.echo(json.dumps({"error": error.message, "problems": problems, "next": error.hint}, ensure_ascii=False))
    console.print(f"Error: {error.message}")
    for problem in problems:
        console.print(f"  - {problem}")
    if error.hint:
        console.print(f"Next: {error.hint}")
