"""The whole catalogue: every drill on a fleet that is ready for it and on one that is not, expected against got.

`make catalogue` runs it. A drill's docstring says what makes it unready (``Not ready: --fleet NAME:argument=0``) and
what it needs (``Needs real Kubernetes: --env kind``: `plan` must refuse it in `local`, exit 4); ready must pass (exit
0), unready must fail (exit 1). Drills without such a line are not of the catalogue. Each run is one
``blackstart run`` of its own; this judges nothing but exit codes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from drills.engine.safety.loader import DrillFile, find_all

ROOT = Path(__file__).resolve().parents[1]
NOT_READY = re.compile(r"^Not ready: --fleet (\S+)", re.MULTILINE)
NEEDS_KIND = "Needs real Kubernetes: --env kind"
WORDS = {0: "pass", 1: "fail", 2: "unknown", 3: "harness error", 4: "refused"}
RUN_S = 150.0
"""No run of the catalogue takes longer; one that does is killed and counts as a harness error."""


@dataclass(frozen=True)
class Case:
    """One run: ``fleet`` "" is the drill's own; ``expected`` is an exit code."""

    drill: str
    fleet: str
    expected: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """What stands behind ``blackstart run``."""
        return (self.drill, "--fleet", self.fleet, "--expect-fail") if self.fleet else (self.drill,)


def cases(files: dict[str, DrillFile], kind: bool = False) -> Iterator[Case]:
    """Ready and unready run of each drill of the catalogue; ``kind``: those that need Kubernetes can run."""
    for name, file in sorted(files.items()):
        found = NOT_READY.search(file.text)
        if found is None:
            continue
        if NEEDS_KIND in file.text and not kind:
            yield Case(name, "", 4)
            continue
        yield Case(name, "", 0)
        yield Case(name, found.group(1), 1)


def run(case: Case, environment: str, seed: int, out: Path) -> tuple[int, float, str]:
    """(exit code, seconds, the objectives that failed) of one run; what it printed is beside its run directory."""
    began = time.monotonic()
    command = [sys.executable, "-m", "blackstart", "run", *case.arguments, "--env", environment, "--seed", str(seed)]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with (out / "output.txt").open("w") as log:
            code = subprocess.run(
                [*command, "--out", str(out)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=RUN_S
            ).returncode
    except subprocess.TimeoutExpired:
        code = 3
    results = sorted(out.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    objectives = json.loads(results[-1].read_text())["objectives"] if results else []
    wrong = [f"{o['name']} {o['verdict']}" for o in objectives if o["verdict"] != "pass"]
    return code, time.monotonic() - began, ", ".join(dict.fromkeys(wrong))


@click.command()
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--env", "environment", default="local", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "catalogue", show_default="runs/catalogue"
)
@click.option("--only", multiple=True, help="A drill's name (repeat); all by default.")
def main(seed: int, environment: str, out: Path, only: tuple[str, ...]) -> None:
    """Run every drill of the catalogue on its ready and on its unready fleet; exit 1 when one ends otherwise."""
    chosen = [c for c in cases(find_all(ROOT), environment == "kind") if not only or c.drill in only]
    if not chosen:
        raise click.UsageError(f"no drill of the catalogue is called {' or '.join(only)}")
    row = "{:<24} {:<28} {:<9} {:<9} {:>5}  {}".format
    click.echo(row("drill", "fleet", "expected", "got", "s", "not passed"))
    other, total_s = 0, 0.0
    for case in chosen:
        place = out / f"{case.drill}-{re.sub('[^a-z0-9_=-]', '-', case.fleet) or 'ready'}-{seed}"
        code, seconds, wrong = run(case, environment, seed, place)
        other += code != case.expected
        total_s += seconds
        mark = "" if code == case.expected else f"  <- not as expected; see {place / 'output.txt'}"
        got = WORDS.get(code, f"exit {code}")
        click.echo(row(case.drill, case.fleet or "ready", WORDS[case.expected], got, f"{seconds:.0f}", wrong + mark))
    click.echo(f"{len(chosen)} runs in {total_s / 60:.1f} minutes, {other} not as expected (seed {seed})")
    sys.exit(1 if other else 0)


if __name__ == "__main__":
    main()
