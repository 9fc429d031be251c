"""Forecasts each single loss, and every pair, of a large fleet, and prints seconds and peak memory.

    .venv/bin/python benchmarks/forecast_scale.py --clusters 100 --gpus 100000 --models 10000

The fleet is drawn from a seed: nodes of 8 GPUs, models of 1, 2, 4 or 8 GPUs (``--sizes`` for others), filled to
``--fill`` of its GPUs, half of the models with homes and half spread. What is timed is all that `blackstart forecast`
does: reading the TOML file, the checks, the placement, the losses.
"""

from __future__ import annotations

import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from drills.engine.commands.forecast import answer
from fleet.forecast import Losses, placements_planned
from fleet.spec import MIB, FleetSpec

NODE_GPUS = 8


def toml_of(clusters: int, gpus: int, models: int, fill: float, sizes: tuple[int, ...], seed: int) -> str:
    """The text of a fleet file."""
    draw = random.Random(seed)
    nodes = gpus // clusters // NODE_GPUS
    lines = ['name = "large"', "[switches]", "peer_fetch = false"]
    for c in range(clusters):
        rows = ", ".join(f'{{ name = "c{c:03d}-n{n:03d}", gpus = {NODE_GPUS} }}' for n in range(nodes))
        lines += ["[[clusters]]", f'name = "c{c:03d}"', f"nodes = [{rows}]"]
    left = int(clusters * nodes * NODE_GPUS * fill)
    for m in range(models):
        need = draw.choice(sizes)
        replicas = max(1, min(8, round(left / (models - m) / need)))
        left -= need * replicas
        homes = [f'"c{(m + i * 7) % clusters:03d}"' for i in range(replicas)] if m % 2 else []
        lines += [
            "[[models]]",
            f'name = "m{m:05d}"',
            'kind = "chat"',
            'model_class = "base"',
            f"weight_bytes = {draw.randint(1, 64) * MIB}",
            f"gpus = {need}",
            f"replicas = {replicas}",
            f"priority = {draw.randint(0, 9)}",
            f"share = {1 / models!r}",
            f"homes = [{', '.join(homes)}]",
        ]
    for s in range(4):
        lines += ["[[stores]]", f'name = "store-{s}"', f"egress_bytes_s = {50e9 / 8}", f'cluster = "c{s:03d}"']
        lines += ["[[links]]", f'store = "store-{s}"', f"bytes_s = {5e9 / 8}"]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--clusters", default=100, show_default=True)
@click.option("--gpus", default=100_000, show_default=True)
@click.option("--models", default=10_000, show_default=True)
@click.option("--fill", default=0.97, show_default=True, help="Share of the GPUs that models take.")
@click.option("--sizes", default="1,2,4,8", show_default=True, help="GPUs that models take.")
@click.option("--seed", default=1, show_default=True)
def main(clusters: int, gpus: int, models: int, fill: float, sizes: str, seed: int) -> None:
    """Print the seconds of each part, the answers by kind, and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.toml"
        path.write_text(toml_of(clusters, gpus, models, fill, tuple(map(int, sizes.split(","))), seed))
        begin = time.perf_counter()
        spec = FleetSpec.from_toml(path)
    marks = [("read", time.perf_counter())]
    spec.validated()
    marks.append(("checked", time.perf_counter()))
    placements = placements_planned(spec)
    marks.append(("placed", time.perf_counter()))
    losses = Losses(spec, placements)
    singles = Counter(answer(one) for one in losses.all())
    marks.append(("losses", time.perf_counter()))
    pairs = Counter({True: "yes", False: "no", None: "unknown"}[pair.fits] for pair in losses.pairs())
    marks.append(("pairs", time.perf_counter()))
    print(f"{len(spec.clusters)} clusters, {sum(c.gpus for c in spec.clusters)} GPUs, {len(spec.models)} models, "
          f"{len(placements)} replicas")  # fmt: skip
    for name, at in marks:
        print(f"{name:>8} {at - begin:7.2f} s")
        begin = at
    print(f"  single {dict(singles)}")
    print(f"   pairs {dict(pairs)}")
    print(f"    peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
