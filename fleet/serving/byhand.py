"""The command line of a serving process, out of its configuration and a fleet file. Only for people: an environment
makes the same configurations itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

import click

from fleet.spec import FleetSpec
from history.errors import BlackstartError, UsageError

TOKEN_VARIABLE: Final = "BLACKSTART_TOKEN"
"""Environment variable that gives the token to a service that is started by hand."""

Config = TypeVar("Config")
Command = Callable[..., None]


def options(config: type[Any]) -> Callable[[Command], Command]:
    """Decorator: an option for each field of ``config`` that is annotated with a sentence."""
    hints = get_type_hints(config, include_extras=True)

    def add(command: Command) -> Command:
        for one in reversed(fields(config)):
            if get_origin(hints[one.name]) is Annotated:
                command = _option(one, *get_args(hints[one.name]))(command)
        return command

    return add


def _option(one: Field[Any], kind: Any, said: str, *by_hand: Any) -> Callable[[Command], Command]:
    default = by_hand[0] if by_hand else one.default
    how: dict[str, Any] = {"required": True}
    if default is not MISSING:
        how = {"default": default, "show_default": default not in ("", (), None)}
    flag = "--" + one.name.replace("_", "-")
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        how |= {"multiple": True, "type": get_args(inner) or inner}
        how["metavar"] = "NAME URL" if get_args(inner) else None
        flag = flag.removesuffix("s")
    elif kind is bool:
        flag += f"/--no-{flag[2:]}"
    else:
        how["type"] = click.Path(path_type=Path) if Path in (kind, *get_args(kind)) else kind
    return click.option(flag, one.name, help=said, **how)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """A known error becomes its message and hint, not a traceback."""
    try:
        yield
    except BlackstartError as error:
        problems = error.problems if isinstance(error, UsageError) else ()
        raise click.ClickException("\n".join((error.message, *problems, error.hint))) from error


def _read(_: click.Context, __: click.Parameter, path: Path) -> FleetSpec:
    with plainly():
        return FleetSpec.from_toml(path).validated()


_FLEET: Final = click.option(
    "--fleet",
    type=click.Path(path_type=Path),
    callback=_read,
    required=True,
    help="TOML file that describes the fleet: its models and switches (docs/fleet.toml is a commented one).",
)
_MODEL: Final = click.option("--model", required=True, help="Model (or pool) of the fleet that it serves.")


def by_hand(run: Callable[[Config], None], config: type[Config], about: str) -> None:
    """The command line of a module: ``run`` with the ``config`` that its options give, with the token of the
    environment. A config with models, or with one model, takes them from a fleet file."""
    names = {one.name for one in fields(config)}  # type: ignore[arg-type]

    def main(fleet: FleetSpec | None = None, model: str = "", **given: Any) -> None:
        with plainly():
            if fleet is not None and model:
                given["model"] = fleet.model(model)
            elif fleet is not None:
                given |= {"models": fleet.models, "switches": fleet.switches}
            run(config(**given, token=os.environ.get(TOKEN_VARIABLE, "")))  # type: ignore[call-arg]

    command: Command = _MODEL(main) if "model" in names else main
    command = _FLEET(command) if names & {"model", "models"} else command
    click.command(help=about)(options(config)(command))()
