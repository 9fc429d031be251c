"""What a run on a kind fleet can leave behind when it is killed, and how that is healed.

Through ``fleet.environments.restore_leftovers``. A fleet that was up before the run is healed of every fault and stays;
one that the run made is taken away. Idempotent; touches only containers that carry the fleet's marker.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from fleet.environments.kind import containers, faults, lifecycle
from fleet.environments.kind.state import FleetState, Folder
from history.errors import FleetError


def facts(folder: Folder, found_up: bool, fleet_id: str) -> dict[str, Any]:
    """JSON by which ``restore`` heals without the run's memory: the fleet that it uses, or that it would make."""
    return {"folder": str(folder.root), "found_up": found_up, "fleet_id": fleet_id}


def restore(facts: dict[str, Any]) -> tuple[str, ...]:
    """Heals or takes away; one line for each thing done, () when nothing was left. ``FleetError`` when that fails."""
    if not facts.get("folder"):
        return ()
    folder = Folder(Path(str(facts["folder"])))
    state = folder.read()
    if state is None:
        return ()
    if facts.get("fleet_id", state.fleet_id) != state.fleet_id:  # it never came to be, or is gone
        return (f"left alone the fleet in {folder.root}: it is not this run's",)
    if not facts.get("found_up"):
        done: list[str] = []
        lifecycle.down(folder, done.append)
        return (*done, f"took away the fleet in {folder.root}")
    return tuple(line for cluster in state.clusters for line in _heal(state, cluster.name, cluster.containers, folder))


def _heal(state: FleetState, name: str, wanted: tuple[str, ...], folder: Folder) -> list[str]:
    found = [one for one in containers.of_cluster(f"blackstart-{name}") if one.marker == str(folder.marker)]
    if {one.name for one in found} != set(wanted):
        raise FleetError(
            f"cluster {name} has {len(found)} of {len(wanted)} containers",
            hint="make the fleet anew: blackstart fleet down --env kind, then up",
        )
    done = []
    if any(one.state == "paused" for one in found):
        containers.unpause(wanted)
        done.append(f"{name} thawed")
    if any(one.state not in ("running", "paused") for one in found):
        containers.start(wanted, state.addresses)
        containers.weigh(wanted, containers.FULL_SHARES)
        done.append(f"{name} started again")
    done += [f"{one} plugged in again" for one in containers.plug_in(wanted, state.addresses)]
    for one in wanted:
        with contextlib.suppress(FleetError):
            if faults.HOLE in containers.execute(one, faults.SHOW):
                containers.execute(one, faults.RECONNECT)
                done.append(f"{one} connected again")
            if one.endswith("control-plane"):
                containers.execute(one, faults.MEND_API)
    return done
