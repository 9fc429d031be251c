"""The public vocabulary on one screen: everything that a drill script imports, and the console script.

A user's script imports only this module. The rooms behind it are loaded when a name is first used, so that a
plug-in or ``--help`` costs nothing; a room's name that resolves to somebody else's package is one clear error.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drills.engine.nouns import (
        Ablation,
        Baseline,
        BlastRadius,
        CablePull,
        ControlPlaneCut,
        CorruptWeights,
        Destroy,
        Drill,
        Freeze,
        Inject,
        Noop,
        Objective,
        Observe,
        OpenLoop,
        Partition,
        PowerLoss,
        Restore,
        Stage,
        StoryPost,
        WeightStoreBrownout,
    )
    from drills.engine.nouns import guards as guards
    from drills.engine.nouns import objectives as objectives
    from fleet import fleets as fleets
    from fleet.spec import ClusterSpec, FleetSpec, LinkSpec, ModelSpec, NodeSpec, StoreSpec, Switches

__all__ = [
    "Ablation",
    "Baseline",
    "BlastRadius",
    "CablePull",
    "ClusterSpec",
    "ControlPlaneCut",
    "CorruptWeights",
    "Destroy",
    "Drill",
    "FleetSpec",
    "Freeze",
    "Inject",
    "LinkSpec",
    "ModelSpec",
    "NodeSpec",
    "Noop",
    "Objective",
    "Observe",
    "OpenLoop",
    "Partition",
    "PowerLoss",
    "Restore",
    "Stage",
    "StoreSpec",
    "StoryPost",
    "Switches",
    "WeightStoreBrownout",
    "fleets",
    "guards",
    "objectives",
]

__version__ = "0.1.0"

_ROOMS = ("history", "assertions", "reports", "loadgen", "fleet", "drills")
_MODULES = {
    "fleets": "fleet.fleets",
    "guards": "drills.engine.nouns.guards",
    "objectives": "drills.engine.nouns.objectives",
}
_FLEET_NOUNS = ("ClusterSpec", "FleetSpec", "LinkSpec", "ModelSpec", "NodeSpec", "StoreSpec", "Switches")


def foreign_rooms() -> list[str]:
    """Rooms whose name resolves to somebody else's package, each as one line; empty when all is well."""
    home = Path(__file__).resolve().parent
    found = []
    for room in _ROOMS:
        spec = find_spec(room)
        places = [] if spec is None else [*(spec.submodule_search_locations or ()), spec.origin or ""]
        if not any(place and Path(place).resolve().is_relative_to(home / room) for place in places):
            found.append(f"{room!r} resolves to {places[0] if places else 'nothing'}, not to blackstart's own")
    return found


def _room_error() -> str:
    foreign = foreign_rooms()
    if not foreign:
        return ""
    return (
        "blackstart cannot load: a package here has the name of one of its rooms: "
        + "; ".join(foreign)
        + ". Next: start the `blackstart` command from an environment of its own, or rename that package."
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"blackstart has no {name!r}; it has {', '.join(__all__)}")
    if error := _room_error():
        raise ImportError(error)
    if name in _MODULES:
        return import_module(_MODULES[name])
    return getattr(import_module("fleet.spec" if name in _FLEET_NOUNS else "drills.engine.nouns"), name)


def main() -> None:
    """The console script ``blackstart``."""
    try:
        if error := _room_error():
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(3)
        sys.exit(import_module("drills.engine.commands").main(sys.argv[1:]))
    except KeyboardInterrupt:  # while the rooms were loaded
        print("Interrupted; nothing had begun.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
