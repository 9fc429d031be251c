"""``blackstart run DRILL --ablate``: what each remediation buys: one run a remediation, one table, one chart.

Called by ``run``. Runs that are finished in the ablation's directory are not repeated, so an interrupted ablation is
resumed by the same command; after each run the page is written anew. It judges nothing of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from rich.console import Console

from assertions import ablation, decode_result
from assertions.ablation import NONE, Variant
from drills.engine.commands.console import table_of
from drills.engine.commands.options import Asked
from drills.engine.commands.verdict import shorten
from drills.engine.nouns import Ablation
from drills.engine.runner.facts import commit_of
from drills.engine.runner.run import INTERRUPTED_EXIT, run_drill
from drills.engine.runner.view import PlainView
from drills.engine.safety.loader import DrillFile, find, load
from drills.engine.safety.refusals import refuse
from history.errors import UsageError
from history.rundir import RunDirectory, write_atomic
from reports import ablation as page

OVERHEAD_S = 25.0
"""Start, drain and judging of a run, as long as none has been timed."""
TRIES = 2
"""A run whose checks do not all pass (a late load, a busy machine) is done once more."""


@dataclass(frozen=True)
class Wanted:
    """One run of the ablation: its name in the table, its folder, its remediations."""

    name: str
    remedies: tuple[str, ...]

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-")


def wanted_runs(found: Ablation, leave_one_out: bool) -> tuple[Wanted, ...]:
    """None, each alone, (all without each,) all: the order of the table."""
    names = [name for name, _ in found.remedies]
    every = tuple(name for name in names if name in found.all)
    runs = [Wanted(NONE, ()), *(Wanted(f"only {name}", (name,)) for name in names)]
    if leave_one_out:
        runs += [Wanted(f"without {name}", tuple(n for n in every if n != name)) for name in every]
    return (*runs, Wanted("all", every))


def ablate(
    console: Console, asked: Asked, out: Path, leave_one_out: bool, gateway_port: int = 0, webhook: str = ""
) -> int:
    """Does what is not done yet; exit code 0 when every run is there and sound, 130 when interrupted, else 2."""
    file, seed = find(asked.drill, Path.cwd()), asked.seed
    loaded = load(file)
    if asked.fleet is not None:
        raise UsageError(
            f"--ablate with --fleet {asked.fleet!r}: each remediation is a fleet of its own",
            hint="leave out --fleet, or write a drill with an ablation over that fleet",
        )
    if loaded.ablation is None or file.remedies:
        raise UsageError(
            f"{asked.drill} has no remediations to compare", hint="give a drill with an ablation, for example june-2022"
        )
    runs = wanted_runs(loaded.ablation, leave_one_out)
    folder = out / f"{loaded.name}-ablation-{seed}"
    took: list[float] = []
    for number, run in enumerate(runs, 1):
        for _ in range(TRIES):
            if _finished(folder, run, file) is not None:
                break
            left = _left(runs[number - 1 :], folder, file, took, loaded.longest_s())
            console.print(f"{number} of {len(runs)}: {run.name} · about {left / 60:.0f} min left", soft_wrap=True)
            began = time.monotonic()
            if _run(console, asked, run, folder / run.folder, gateway_port, webhook) == INTERRUPTED_EXIT:
                console.print("   interrupted; the same command goes on from here", soft_wrap=True)
                return INTERRUPTED_EXIT
            took.append(time.monotonic() - began)
        write(folder, loaded.ablation, runs, file, seed, loaded.time_scale)
    found = write(folder, loaded.ablation, runs, file, seed, loaded.time_scale)
    _print(console, found)
    console.print(f"   page: {shorten(folder / 'ablation.html')}", soft_wrap=True)
    return 0 if len(found.variants) == len(runs) and all(v.sound for v in found.variants) else 2


def write(
    folder: Path, found: Ablation, runs: tuple[Wanted, ...], file: DrillFile, seed: int, time_scale: float
) -> ablation.Ablation:
    """``ablation.json`` and ``ablation.html`` of the runs that are there, sound ones first."""
    variants = [v for run in runs if (v := _finished(folder, run, file, sound=False)) is not None]
    made = ablation.Ablation(
        drill=file.name,
        seed=seed,
        time_scale=time_scale,
        remedies=found.remedies,
        classes=ablation.hit_classes(variants),
        variants=tuple(variants),
    )
    write_atomic(folder / "ablation.json", msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    write_atomic(folder / "ablation.html", page.render(made))
    return made


def _run(console: Console, asked: Asked, run: Wanted, folder: Path, gateway_port: int, webhook: str) -> int:
    again = replace(asked, drill="+".join((asked.drill, *run.remedies)))
    plan = again.plan()
    refuse(plan.refusals)
    words = ("blackstart", "run", *again.words, *(("--gateway-port", str(gateway_port)) if gateway_port else ()))
    return run_drill(plan, folder, PlainView(console, every_s=30.0), words, gateway_port, webhook).exit_code


def _finished(folder: Path, run: Wanted, file: DrillFile, *, sound: bool = True) -> Variant | None:
    """The newest finished run of this variant by the same drill text and commit; None when there is none (sound)."""
    now, _ = commit_of(Path(__file__).parent)
    for path in sorted((folder / run.folder).glob("*/result.json"), reverse=True):
        directory = RunDirectory(path.parent)
        if directory.drill.read_text(encoding="utf-8", errors="replace") != file.text or _commit(directory) != now:
            continue  # another drill, or another fleet, by now: compared with the others it would say nothing
        found = ablation.variant(
            run.name, run.remedies, str(path.parent.relative_to(folder)), decode_result(path.read_bytes())
        )
        if found.sound or not sound:
            return found
    return None


def _commit(directory: RunDirectory) -> str:
    return directory.read_header().commit


def _left(runs: tuple[Wanted, ...], folder: Path, file: DrillFile, took: list[float], longest_s: float) -> float:
    """Seconds for the runs that are not there yet, by the mean of those timed."""
    each = sum(took) / len(took) if took else longest_s + OVERHEAD_S
    return each * sum(_finished(folder, run, file) is None for run in runs)


def _print(console: Console, found: ablation.Ablation) -> None:
    table = table_of("remediations", *found.classes, pad_edge=False, header_style="bold")
    base = next((v for v in found.variants if v.name == NONE), None)
    for one in found.variants:
        cells = [page.entry(found, base, one, label) for label in found.classes]
        table.add_row(one.name, *(f"{cell.text} {cell.gain}".strip() for cell in cells))
    console.print(table)
