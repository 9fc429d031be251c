"""``blackstart forecast``: which cluster can this fleet afford to lose? Arithmetic over its description alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from drills.engine.commands.console import console_out, table_of
from drills.engine.commands.options import fleet_of
from fleet.forecast import Losses, PairForecast, placements_planned
from fleet.spec import FleetSpec
from history.records import Forecast

SHOWN = 3
WORST_PAIRS = 10


@click.command("forecast")
@click.argument("fleet")
@click.option("--pairs", is_flag=True, help="Every two clusters at once as well.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def command(fleet: str, pairs: bool, as_json: bool) -> int:
    """Say for each cluster of FLEET what its loss would mean, without running anything.

    FLEET is a TOML file (docs/fleet.toml is an example), or a fleet of blackstart with its arguments:
    three-clusters:headroom=0.

    GPUs are packed node by node, important models first. The answer is exact while GPU sizes divide each other (1, 2,
    4, 8); for other sizes "?" marks what only bounds are known of, and a fit is never claimed that was not found.
    Seconds are the least that the lost weights need from the stores: bytes over bandwidth, without detection and
    start-up. Exit code 0 whatever the answer is.
    """
    spec = fleet_of(fleet).validated()
    losses = Losses(spec, placements_planned(spec))
    singles = tuple(losses.all())
    both = tuple(losses.pairs()) if pairs else ()
    if as_json:
        click.echo(json.dumps(facts(spec, singles, both if pairs else None), indent=2, ensure_ascii=False))
    else:
        show(console_out(), spec, singles, both)
    return 0


def answer(forecast: Forecast) -> str:
    """``yes``: all that is lost fits; ``no``: some of it surely does not; ``unknown``: the bounds do not decide."""
    if forecast.fits:
        return "yes"
    return "no" if any(model.at_most < model.replicas_lost for model in forecast.models) else "unknown"


def facts(spec: FleetSpec, singles: Sequence[Forecast], pairs: Sequence[PairForecast] | None) -> dict[str, Any]:
    """The answers as plain data."""
    found: dict[str, Any] = {
        "fleet": spec.name,
        "clusters": len(spec.clusters),
        "gpus": sum(cluster.gpus for cluster in spec.clusters),
        "models": len(spec.models),
        "losses": [{**asdict(one), "affordable": answer(one), "reload_s": reload_s(one)} for one in singles],
    }
    if pairs is not None:
        found["pairs"] = [{**asdict(pair), "affordable": _word(pair.fits)} for pair in pairs]
    return found


def show(console: Console, spec: FleetSpec, singles: Sequence[Forecast], pairs: Sequence[PairForecast]) -> None:
    """The answers for people, those that hurt last."""
    rows = []
    for one in sorted(singles, key=lambda one: (answer(one) != "yes", one.victim)):
        out = [model.model for model in one.models if not model.fits]
        names = ", ".join(out[:SHOWN]) + (f" and {len(out) - SHOWN} more" if len(out) > SHOWN else "")
        mark = {"yes": "yes", "no": "NO", "unknown": "?"}[answer(one)]
        after = f"≥ {reload_s(one):.1f} s" if one.models else ""
        rows.append((one.victim, mark, one.gpus_needed, one.gpus_free, len(one.models), len(out), after, names))
    table = table_of(
        *("cluster", "can go", "GPUs lost", "GPUs free", "models hit", "out", "all back after", "who finds no place"),
        rows=rows,
        right=("GPUs lost", "GPUs free"),
    )
    table.columns[0].no_wrap = True
    console.print(Text(f"Fleet {spec.name}: which cluster can it afford to lose?", style="bold"))
    console.print(table)
    words = Counter(answer(one) for one in singles)
    console.print(f"{_share(words)} of {len(singles)} clusters can go, and all that is lost finds a place.")
    for one in singles:
        for model in [model for model in one.models if not model.fits][:1]:
            console.print(f"  without {one.victim}: {model.model}: {model.reason}")
    if pairs:
        show_pairs(console, pairs)


def show_pairs(console: Console, pairs: Sequence[PairForecast]) -> None:
    """How many pairs can go, and the worst."""
    words = Counter(_word(pair.fits) for pair in pairs)
    console.print(Text("\nTwo clusters at once, by bounds", style="bold"))
    console.print(f"{_share(words)} of {len(pairs)} pairs can go, and all that is lost finds a place.")
    bad = sorted((pair for pair in pairs if not pair.fits), key=lambda pair: (-pair.short_gpus, pair.clusters))
    table = table_of(
        *("pair", "can go", "GPUs lost", "GPUs free", "surely short of"),
        rows=[
            (
                " + ".join(pair.clusters),
                "?" if pair.fits is None else "NO",
                pair.gpus_needed,
                pair.gpus_free,
                pair.short_gpus,
            )
            for pair in bad[:WORST_PAIRS]
        ],
        right=("GPUs lost", "GPUs free"),
    )
    if bad:
        console.print(table)
    if len(bad) > WORST_PAIRS:
        console.print(f"  … and {len(bad) - WORST_PAIRS} more: --json lists every pair")


def reload_s(forecast: Forecast) -> float:
    """Seconds until the last byte of all that fits has arrived, at the least."""
    return max((model.reload_s or 0.0 for model in forecast.models), default=0.0)


def _word(fits: bool | None) -> str:
    return "unknown" if fits is None else "yes" if fits else "no"


def _share(words: Counter[str]) -> str:
    return f"{words['yes']}" + (f" (perhaps {words['unknown']} more)" if words["unknown"] else "")
