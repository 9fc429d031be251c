"""environments: where a fleet runs, behind ``fleet.protocols``.

local/       every cluster a group of real processes on this machine (the embedded default)

``open_fleet`` is the one door: it makes a fleet by the environment's name and starts nothing.
"""

from __future__ import annotations

from pathlib import Path

from fleet.protocols import Fleet
from fleet.spec import FleetSpec
from history.errors import UsageError

ENVIRONMENTS = ("local",)


def open_fleet(
    environment: str, spec: FleetSpec, *, work_dir: Path | None = None, logs: Path | None = None, gateway_port: int = 0
) -> Fleet:
    """A fleet of that environment, not started; ``UsageError`` for an unknown name.

    ``work_dir``: must not exist; removed when the fleet stops. ``logs``: stays. Both temporary when not given.
    """
    if environment == "local":
        from fleet.environments.local.fleet import LocalFleet

        return LocalFleet(spec, work_dir=work_dir, logs=logs, gateway_port=gateway_port)
    raise UsageError(f"unknown environment {environment!r}", hint=f"environments are: {', '.join(ENVIRONMENTS)}")
