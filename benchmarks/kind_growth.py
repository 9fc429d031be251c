"""Fleets of 2, 3, 4 and 6 clusters of one node: seconds to make, idle cost, what a drill on them costs by itself.

    python benchmarks/kind_growth.py [COUNT …]

The drill is `partition`; its own cost is the processor time of the harness, its load and its probers, not the fleet's.
Needs a Docker engine and images; says so and ends with 0 where there are none. Exit 1 when a cluster costs more in the
largest fleet than in the smallest (a quarter is borne), or a drill did not pass.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fleet.environments.kind import lifecycle
from fleet.environments.kind.state import Folder
from fleet.environments.kind.supplies import find
from fleet.spec import FleetSpec
from history.errors import FleetError

if TYPE_CHECKING:
    from benchmarks.kind_fleet import idle, timed
else:
    from kind_fleet import idle, timed

NAMES = ("amber", "cobalt", "jade", "onyx", "ruby", "sable")
TOLERANCE = 1.25
CLUSTER: Final = """
[[clusters]]
name = "{0}"
nodes = [{{ name = "{0}-n1", gpus = 4 }}]
"""
REST: Final = """
[[models]]
name = "chat"
kind = "chat"
model_class = "base"
weight_bytes = 524288
replicas = {replicas}
share = 0.8
homes = {homes}

[[models]]
name = "curie"
kind = "completion"
model_class = "legacy"
weight_bytes = 262144
replicas = 1
share = 0.2
homes = ["cobalt"]

[[stores]]
name = "weights"
egress_bytes_s = 33554432
"""


def fleet_file(count: int, folder: Path) -> Path:
    """The first so many clusters; the model ``chat`` in each, ``curie`` in cobalt alone."""
    homes = list(NAMES[:count])
    text = f'name = "growth-{count}"\n' + "".join(map(CLUSTER.format, homes))
    file = folder / "growth.toml"
    file.write_text(text + REST.format(replicas=count, homes=str(homes).replace("'", '"')))
    return file


def silently(_: str) -> None:
    """Says nothing."""


def drill(file: Path, state: Path) -> float:
    """Processor seconds of the harness and its children for each second of the run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = ["run", "partition", "--env", "kind", "--fleet", str(file), "--out", str(state / "runs"), "--plain"]
    command = [str(Path(sys.executable).with_name("blackstart")), *words]
    done = subprocess.run(command, env={**os.environ, "BLACKSTART_STATE": str(state)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"✗ the drill did not pass (exit {done.returncode})\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    took_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / took_s


def main(counts: list[int]) -> int:
    """One line a fleet."""
    try:
        find(lambda line: print(line))
    except FleetError as error:
        print(f"skipped: {error.message}. Next: {error.hint}")
        return 0
    bare_cores, bare_gib = idle()
    rows: list[tuple[float, ...]] = []
    print("clusters  made in  a cluster  idle cores  a cluster   memory  drill's own cores  a cluster   down")
    for count in counts:
        with tempfile.TemporaryDirectory() as state:
            folder, file = Folder(Path(state, "kind")), fleet_file(count, Path(state))
            try:
                made_s = timed(partial(lifecycle.up, FleetSpec.from_toml(file), folder, silently))
                time.sleep(5)
                cores, gib = (now - before for now, before in zip(idle(), (bare_cores, bare_gib), strict=True))
                own_cores = drill(file, Path(state))
            finally:
                down_s = timed(partial(lifecycle.down, folder, silently))
        row = tuple(whole / count for whole in (made_s, cores, gib, own_cores))
        rows.append(row)
        line = f"{count:8}  {made_s:6.1f}s  {row[0]:8.1f}s  {cores:10.2f}  {row[1]:9.2f}  {gib:4.1f} GiB"
        print(f"{line}  {own_cores:17.2f}  {row[3]:9.2f}  {down_s:4.1f}s", flush=True)
    linear = all(last <= first * TOLERANCE for first, last in zip(rows[0], rows[-1], strict=True))
    print("✓ linear or better" if linear else "✗ a cluster costs more in larger fleets")
    return 0 if linear else 1


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]] or [2, 3, 4, 6]))
