"""Fleets of 2, 3, 4 and 6 clusters of one node: seconds to make, idle cost; is that linear, or better?

    python benchmarks/kind_growth.py [COUNT …]

Needs a Docker engine and images; says so and ends with 0 where there are none. Exit 1 when the cost a cluster grows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fleet import fleets
from fleet.environments.kind import lifecycle
from fleet.environments.kind.state import Folder
from fleet.environments.kind.supplies import find
from fleet.spec import MIB, ClusterSpec, FleetSpec, NodeSpec
from history.errors import FleetError

if TYPE_CHECKING:
    from benchmarks.kind_fleet import idle, timed
else:
    from kind_fleet import idle, timed

NAMES = ("amber", "cobalt", "jade", "onyx", "ruby", "sable")
TOLERANCE = 1.25


def fleet_of(count: int) -> FleetSpec:
    """The first so many clusters, and the model ``chat`` in each."""
    base = fleets.micro()
    clusters = tuple(ClusterSpec(name, (NodeSpec(f"{name}-n1", 4, 16 * MIB),)) for name in NAMES[:count])
    chat = replace(base.models[0], replicas=count, share=1.0, homes=NAMES[:count])
    return replace(base, name=f"growth-{count}", clusters=clusters, models=(chat,))


def silently(_: str) -> None:
    """Says nothing."""


def main(counts: list[int]) -> int:
    """One line a fleet."""
    try:
        find(lambda line: print(line))
    except FleetError as error:
        print(f"skipped: {error.message}. Next: {error.hint}")
        return 0
    bare_cores, bare_gib = idle()
    rows: list[tuple[float, float, float]] = []
    print("clusters  made in  a cluster  idle cores  a cluster  memory  down")
    for count in counts:
        with tempfile.TemporaryDirectory() as state:
            folder = Folder(Path(state, "kind"))
            try:
                made = timed(partial(lifecycle.up, fleet_of(count), folder, silently))
                time.sleep(5)
                cores, gib = (now - before for now, before in zip(idle(), (bare_cores, bare_gib), strict=True))
            finally:
                down = timed(partial(lifecycle.down, folder, silently))
        rows.append((made / count, cores / count, gib / count))
        made_each, cores_each = made / count, cores / count
        line = f"{count:8}  {made:6.1f}s  {made_each:8.1f}s  {cores:10.2f}  {cores_each:9.2f}  {gib:4.1f}GiB"
        print(f"{line}  {down:.1f}s", flush=True)
    linear = all(last <= first * TOLERANCE for first, last in zip(rows[0], rows[-1], strict=True))
    print("✓ linear or better" if linear else "✗ a cluster costs more in larger fleets")
    return 0 if linear else 1


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]] or [2, 3, 4, 6]))
