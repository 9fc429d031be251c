"""environments: where a fleet runs, behind ``fleet.protocols``.

local/       every cluster a group of real processes on this machine (the embedded default)
kind/        every cluster a real Kubernetes, made by kind out of containers

``open_fleet`` is the one door: it makes a fleet by the environment's name and starts nothing. ``lock_targets``,
``facts_to_heal`` and ``restore_leftovers`` are what safety asks of an environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleet.protocols import Fleet, Leftovers
from fleet.spec import FleetSpec
from history.errors import UsageError

ENVIRONMENTS = ("local", "kind")


def open_fleet(
    environment: str, spec: FleetSpec, *, work_dir: Path | None = None, logs: Path | None = None, gateway_port: int = 0
) -> Fleet:
    """A fleet of that environment, not started; ``UsageError`` for an unknown name.

    ``work_dir``: must not exist; removed when the fleet stops. ``logs``: stays. Both temporary when not given.
    """
    if environment == "local":
        from fleet.environments.local.fleet import LocalFleet

        return LocalFleet(spec, work_dir=work_dir, logs=logs, gateway_port=gateway_port)
    if environment == "kind":
        from fleet.environments.kind.fleet import KindFleet

        return KindFleet(spec, gateway_port=gateway_port)
    raise UsageError(f"unknown environment {environment!r}", hint=f"environments are: {', '.join(ENVIRONMENTS)}")


def lock_targets(environment: str, spec: FleetSpec) -> tuple[str, ...]:
    """What a run must hold alone: the environment, of which there is one a user (one folder, one network), and, so
    that people see them, the clusters that outlive a run."""
    if environment == "local":
        return ("local",)
    return (environment, *(f"{environment}-{cluster.name}" for cluster in spec.clusters))


def facts_to_heal(fleet: Fleet) -> dict[str, Any]:
    """The facts (JSON) by which what this fleet may leave can be removed without it; written ahead by the journal."""
    return fleet.leftovers() if isinstance(fleet, Leftovers) else {}


def restore_leftovers(environment: str, facts: dict[str, Any]) -> tuple[str, ...]:
    """Heals and removes what a dead run left; one line for each thing done, () when nothing was left. Idempotent.

    ``FleetError`` when something will not go. ``facts`` may be incomplete: a journal can be cut at any byte.
    """
    if environment == "local":
        from fleet.environments.local import leftovers

        return leftovers.restore(facts)
    if environment == "kind":
        from fleet.environments.kind.leftovers import restore

        return restore(facts)
    raise UsageError(f"unknown environment {environment!r}", hint=f"environments are: {', '.join(ENVIRONMENTS)}")
