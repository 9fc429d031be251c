"""Options that several commands share, and how ``--fleet`` is read."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from drills.engine.safety.loader import find
from drills.engine.safety.lock import state_dir
from drills.engine.safety.plan import Plan, make_plan
from fleet import fleets
from fleet.spec import FleetSpec
from history.errors import UsageError, meant


@dataclass(frozen=True)
class Asked:
    """What `plan` and `run` are asked for: a drill, where, with which seed and fleet, and what was confirmed."""

    drill: str
    environment: str
    seed: int
    fleet: str | None
    confirmed: tuple[str, ...]
    expect_fail: bool

    def plan(self) -> Plan:
        """The plan of that."""
        usable_state()
        spec = None if self.fleet is None else fleet_of(self.fleet)
        file = find(self.drill, Path.cwd())
        return make_plan(
            file, self.environment, self.seed, spec, confirmed=self.confirmed, expect_fail=self.expect_fail
        )

    @property
    def words(self) -> list[str]:
        """The arguments that ask for the same again."""
        words = [self.drill, "--env", self.environment, "--seed", str(self.seed)]
        words += ["--fleet", self.fleet] if self.fleet else []
        words += [part for name in self.confirmed for part in ("--confirm", name)]
        return words + (["--expect-fail"] if self.expect_fail else [])


def planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds DRILL, --env, --seed, --fleet, --confirm and --expect-fail to a command, which gets them as ``asked``."""

    @click.argument("drill")
    @click.option(
        "--env", "environment", default="local", show_default=True, help="Environment in which the drill happens."
    )
    @click.option(
        "--seed",
        type=click.IntRange(0, 2**31 - 1),
        default=1,
        show_default=True,
        help="Seed of everything random: schedule, weights' bytes.",
    )
    @click.option(
        "--fleet",
        metavar="FLEET",
        help="Another fleet for the same drill: a TOML file, or a fleet of blackstart with its arguments, for example "
        "three-clusters:headroom=0.",
    )
    @click.option(
        "--confirm",
        "confirmed",
        metavar="NAME",
        multiple=True,
        help="Name a target once more, letter by letter, when it looks like another cluster's name (repeat).",
    )
    @click.option(
        "--expect-fail",
        is_flag=True,
        help="Carry out a drill although the forecast says that an objective is impossible; it then ends with exit 1 "
        "and the proof.",
    )
    @wraps(command)
    def asking(**options: Any) -> Any:
        asked = Asked(**{field.name: options.pop(field.name) for field in fields(Asked)})
        return command(asked, **options)

    return asking


def usable_state() -> Path:
    """The state directory, which need not be there yet; ``UsageError`` where there could be none."""
    path = state_dir()
    there = next(one for one in (path, *path.parents) if os.path.lexists(one))
    if there.is_dir() and os.access(there, os.R_OK | os.X_OK | (0 if there == path else os.W_OK)):
        return path
    raise UsageError(
        f"the state directory {path} cannot be used: {there} is {'closed to you' if there.is_dir() else 'no folder'}",
        hint="name another one with BLACKSTART_STATE=DIR; locks and the ledger are kept there",
    )


def looked_into(state: Path) -> str:
    """Where nothing was found, for whoever expected something."""
    return f"looked into {state}" + ("" if state.is_dir() else ", which does not exist")


def fleet_of(text: str) -> FleetSpec:
    """``path/to/fleet.toml`` or ``name[:argument=integer,…]`` -> the fleet's description."""
    if text.endswith(".toml"):
        return FleetSpec.from_toml(Path(text))
    name, _, arguments = text.partition(":")
    known = {
        key.replace("_", "-"): make
        for key, make in inspect.getmembers(fleets, inspect.isfunction)
        if make.__module__ == fleets.__name__ and not key.startswith("_")
    }
    if name not in known:
        hint = f"{meant(name, known)}give a .toml file or one of: {', '.join(sorted(known))}"
        raise UsageError(f"there is no fleet {text!r}", hint=hint)
    takes = [one.name for one in inspect.signature(known[name]).parameters.values() if one.annotation == "int"]
    given = dict(pair.partition("=")[::2] for pair in arguments.split(",") if pair)
    for key, value in given.items():
        if key not in takes or not re.fullmatch("-?[0-9]+", value):
            hint = f"{meant(key, takes)}{name} takes {', '.join(f'{one}=INTEGER' for one in takes) or 'no argument'}"
            raise UsageError(f"fleet {text!r}: {key}={value} is no argument of {name}", hint=hint)
    spec: FleetSpec = known[name](**{key: int(value) for key, value in given.items()})
    return spec
