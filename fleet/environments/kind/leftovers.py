"""What a run on a kind fleet can leave behind when it is killed, and how that is healed.

Through ``fleet.environments.restore_leftovers``. A fleet that was up before the run is healed of every fault and stays;
one that the run made is taken away. Idempotent; touches only containers that carry the fleet's marker. What could not
be looked at is not healed: it raises, when all else has been tried.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fleet.environments.kind import containers, faults, hosting, lifecycle
from fleet.environments.kind.containers import surely
from fleet.environments.kind.layout import lay_out
from fleet.environments.kind.state import FleetState, Folder
from fleet.environments.local.ask import at_once
from fleet.environments.local.layout import Layout
from fleet.environments.local.stores import StoreFaults
from history.errors import BlackstartError, FleetError


def facts(folder: Folder, found_up: bool, fleet_id: str) -> dict[str, Any]:
    """JSON by which ``restore`` heals without the run's memory: the fleet that it uses, or that it would make."""
    return {"folder": str(folder.root), "found_up": found_up, "fleet_id": fleet_id}


def restore(facts: dict[str, Any]) -> tuple[str, ...]:
    """Heals or takes away; one line for each thing done, () when nothing was left. ``FleetError`` when that fails.

    Without ``folder`` it is this user's; a fleet of which is not known that the run made it is healed and stays.
    """
    folder = Folder(Path(str(facts["folder"])) if facts.get("folder") else None)
    state, found_up = folder.read(), facts.get("found_up", True)
    if state is None:
        return _gone(folder, bool(facts.get("folder"))) if found_up else ()
    if facts.get("fleet_id", state.fleet_id) != state.fleet_id:  # it never came to be, or is gone
        return (f"left alone the fleet in {folder.root}: it is not this run's",)
    done, failed = list[str](), list[Exception]()
    if not found_up:
        lifecycle.down(folder, done.append)
        return (*done, f"took away the fleet in {folder.root}")
    parts = [partial(_heal, state, one.name, one.containers, folder) for one in state.clusters]
    for part in (*parts, partial(_mend_stores, state, folder)):
        try:
            done += part()
        except Exception as error:  # what fails with one must not keep another hurt
            failed.append(error)
    if failed:
        raise failed[0]
    return tuple(done)


def _gone(folder: Folder, known: bool) -> tuple[str, ...]:
    """There is no fleet any more: its faults went with it, when it was this one and nothing stands without its file."""
    left = [one.name for one in containers.labelled() if one.marker == str(folder.marker)] if known else []
    if left or not known:
        what = f"{len(left)} containers of it stand" if known else "nothing says which fleet the run used"
        raise FleetError(
            f"there is no {folder.file}, and {what}",
            hint="`blackstart fleet down --env kind` takes them away" if known else "name its BLACKSTART_STATE=DIR",
        )
    return (f"the fleet in {folder.root} is gone, and what was hurt with it",)


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
        containers.lift(wanted)
        done.append(f"{name} started again")
    done += [f"{one} plugged in again" for one in containers.plug_in(wanted, state.addresses)]
    return done + [line for line in at_once(lambda one: surely(partial(_mend_node, one)), list(wanted)) if line]


def _mend_node(name: str) -> str:
    """What was done, "" when it was whole."""
    done = []
    if faults.HOLE in containers.execute(name, faults.SHOW):
        containers.execute(name, faults.RECONNECT)
        if faults.HOLE in containers.execute(name, faults.SHOW):
            raise FleetError(f"the rules that cut off {name} do not go", hint=f"docker exec {name} {faults.SHOW}")
        done.append("connected again")
    if name.endswith("control-plane") and containers.execute(name, faults.MEND_API).strip():
        done.append("has its API server again")
    return f"{name} {', '.join(done)}" if done else ""


class _Stores(StoreFaults):
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @property
    def layout(self) -> Layout:
        return self._layout


def _mend_stores(state: FleetState, folder: Folder) -> list[str]:
    """Every weight store that runs, as declared; one that does not has forgotten its fault."""
    if not hosting.alive(state):
        return []
    stores = _Stores(lay_out(state, folder))
    dead = [said.partition(":")[0] for said in hosting.died(state, folder)]
    names = [store.name for store in state.spec.stores if f"store-{store.name}" not in dead]
    return [line for line in at_once(lambda name: surely(partial(_mend_store, stores, name)), names) if line]


def _mend_store(stores: _Stores, name: str) -> str:
    if all(signal.ok for signal in stores.verify_store(name, 1.0, False)):
        return ""
    try:
        stores.mend_store(name)
    except BlackstartError as error:
        raise FleetError(error.message, hint=error.hint) from error
    if bad := [signal.seen for signal in stores.verify_store(name, 1.0, False) if not signal.ok]:
        raise FleetError(f"weight store {name} is not mended: {'; '.join(bad)}", hint="restore again")
    return f"weight store {name} mended"
