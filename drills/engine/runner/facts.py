"""The run header: everything that a stranger needs to read, and to repeat, a run."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import psutil

import drills
from drills.engine.safety.plan import Plan
from fleet.protocols import Fleet
from history.clock import Anchor
from history.records import FleetFacts, RunHeader, StepFacts

_VERSIONS = ("blackstart", "locust", "aiohttp", "numpy", "msgspec", "bokeh")


def first_header(plan: Plan, fleet: Fleet, run_id: str, anchor: Anchor, command_line: tuple[str, ...]) -> RunHeader:
    """The header of a run whose fleet has not started: what ends before it has can still be judged."""
    commit, dirty = commit_of(Path(drills.__file__).parent)
    drill = plan.drill
    return RunHeader(
        run_id=run_id,
        drill=drill.name,
        description=plan.file.summary,
        seed=plan.seed,
        environment=plan.environment,
        anchor=anchor,
        command_line=command_line,
        versions=versions(),
        commit=commit,
        dirty=dirty,
        host=host(),
        fleet=FleetFacts(drill.fleet.name, clusters=(), models=drill.fleet.model_facts(), placements=()),
        target=fleet.target(),
        mix=drill.mix(),
        load=drill.load.spec(plan.horizon_s, plan.seed),
        steps=tuple(StepFacts(type(step).__name__, step.describe()) for step in drill.steps),
        faults=plan.marks,
        objectives=tuple(objective.spec for objective in drill.objectives),
        forecast=plan.forecasts[0] if plan.forecasts else None,
        forecasts=plan.forecasts,
        time_scale=drill.time_scale,
        recovery_until=drill.recovery_until,
        story=drill.story,
        says_end=True,
        notes=("the fleet had not come up when this run ended",),
    )


def header_of_running(header: RunHeader, fleet: Fleet) -> RunHeader:
    """The same header once the fleet is up, with everything that is known only then."""
    there = fleet.prometheus_url is not None
    notes = () if there else (f"no Prometheus: {fleet.prometheus_absent}",)
    return replace(header, fleet=fleet.facts(), target=fleet.target(), prometheus=there, notes=notes)


def versions() -> tuple[tuple[str, str], ...]:
    """Versions of Python and of what the figures depend on."""
    found = [("python", platform.python_version())]
    for name in _VERSIONS:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "absent"))
    return tuple(found)


def host() -> tuple[tuple[str, str], ...]:
    """The machine as far as it matters to a measurement."""
    return (
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("cores", str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())),
        ("memory_gib", f"{psutil.virtual_memory().total / 2**30:.1f}"),
        ("load_average_at_start", f"{os.getloadavg()[0]:.2f}"),
    )


def commit_of(folder: Path) -> tuple[str, bool]:
    """(short commit, has uncommitted changes) of the checkout that runs; ("unknown", False) outside one."""
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=5)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown", False
    if commit.returncode != 0:
        return "unknown", False
    return commit.stdout.strip(), bool(status.stdout.strip())
