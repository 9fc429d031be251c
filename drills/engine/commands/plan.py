"""``blackstart plan``: what a drill would do, and what must happen; touches nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drills.engine.commands.console import console_out, table_of
from drills.engine.commands.options import Asked, planning
from drills.engine.nouns.guards import Guard, stop_request
from drills.engine.safety.plan import Plan
from drills.engine.safety.refusals import lines
from history.errors import UsageError
from history.records import AT_LEAST, Forecast, ModelForecast, ObjectiveSpec

SHOWN = 4

LOADED = "loaded after: if downloads share store and links fairly; without noticing the loss, deciding and starting"


@click.command("plan")
@planning
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def command(asked: Asked, as_json: bool) -> int:
    """Show what DRILL would do, without doing it.

    Resolved targets and blast radius, steps with their times, objectives, guards, how long a hold takes to be proven
    at each model's rate, and the N-1 forecast: which models fit where if the victim goes, how long their bytes must
    take, and so which verdict to expect. All mistakes of the file are listed at once, with file and line (exit 4).

    Then every reason for which `run` would refuse to start, each with its next step (exit 4): a target that did not opt
    in, is protected ($BLACKSTART_PROTECTED, or [protected] names in a blackstart.toml here, beside the drill or in a
    folder above), or looks like another and is not confirmed; a lock that is held; a blast radius larger, or survivors
    fewer, than declared; an observer that would die with the victim; objectives that the forecast excludes.
    """
    plan = asked.plan()
    if as_json:
        click.echo(json.dumps(facts(plan), indent=2, ensure_ascii=False))
    else:
        show(console_out(), plan)
    return UsageError.exit_code if plan.refusals else 0


def facts(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    drill = plan.drill
    hurt = {mark.cluster: mark.kind for mark in plan.marks}
    return {
        "drill": drill.name,
        "summary": plan.file.summary,
        "file": str(plan.file.path),
        "environment": plan.environment,
        "seed": plan.seed,
        "longest_s": drill.longest_s(),
        "clusters": [
            {"name": c.name, "gpus": [node.gpus for node in c.nodes], "fault": hurt.get(c.name)}
            for c in drill.fleet.clusters
        ],
        "blast_radius": {"clusters": drill.blast_radius.clusters, "survivors": drill.blast_radius.survivors},
        "faults": [asdict(mark) for mark in plan.marks],
        "steps": [{"text": step.describe(), "at_most_s": step.longest_s()} for step in drill.steps],
        "objectives": [asdict(objective.spec) for objective in drill.objectives],
        "guards": [{"name": guard.name, "text": guard.describe()} for guard in guards_of(plan)],
        "holds": [asdict(hold) for hold in plan.holds],
        "forecasts": [{**asdict(forecast), "fits": forecast.fits} for forecast in plan.forecasts],
        "expected": {"verdict": plan.expectation.verdict, "text": plan.expectation.text},
        "protected": [{"pattern": pattern, "source": source} for pattern, source in plan.protected.patterns],
        "refusals": [asdict(refusal) for refusal in plan.refusals],
    }


def show(console: Console, plan: Plan) -> None:
    """The plan for people, the reasons not to start last."""
    console.print(f"{plan.drill.name}: {plan.file.summary}")
    console.print(
        f"file {plan.file.path} · environment {plan.environment} · seed {plan.seed} · at most "
        f"{plan.drill.longest_s():g} s"
    )
    listed = ", ".join(f"{pattern!r} in {source}" for pattern, source in plan.protected.patterns)
    console.print(f"protected: {listed or 'nothing'}")
    for title, table in tables(plan):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table)
    for forecast in plan.forecasts:
        goes = "go" if forecast.clusters else "goes"
        console.print(Text(f"\nForecast: if {forecast.victim} {goes}", style="bold"))
        console.print(
            f"  {forecast.gpus_needed} GPUs must be found, {forecast.gpus_free} are free on the survivors: "
            + ("every model fits." if forecast.fits else "NOT every model fits.")
        )
        console.print(forecast_table(forecast))
        if any(model.reload_s is not None for model in forecast.models):
            console.print(f"  {LOADED}", style="dim")
    if plan.expectation.verdict != "pass" or not plan.refusals:
        console.print(Text.assemble(("\nExpected verdict: ", "bold"), plan.expectation.text))
    if plan.refusals:
        console.print(Text(f"\n`blackstart run` would refuse, for {len(plan.refusals)} reason(s):", style="bold red"))
        for line in lines(plan.refusals):
            console.print(Text(f"  - {line}"))


def guards_of(plan: Plan) -> tuple[Guard, ...]:
    """The drill's own, and the one that every drill has."""
    return (*plan.drill.guards, stop_request())


def tables(plan: Plan) -> Iterator[tuple[str, Table]]:
    """What is hurt, in which steps, what must hold, what ends the run, how long a recovery takes to be proven."""
    drill, radius = plan.drill, plan.drill.blast_radius
    hurt = {mark.cluster: f"victim: {mark.kind}, clients see: {mark.signature}" for mark in plan.marks}
    yield (
        "Fleet",
        table_of(
            *("cluster", "nodes", "GPUs", "in this drill"),
            rows=[
                (c.name, len(c.nodes), " + ".join(str(node.gpus) for node in c.nodes), hurt.get(c.name, "must survive"))
                for c in drill.fleet.clusters
            ],
        ),
    )
    steps = [(step.describe(), f"{step.longest_s():g} s" if step.longest_s() else "") for step in drill.steps]
    yield "Steps", table_of("step", "at most", rows=steps)
    specs = [objective.spec for objective in drill.objectives]
    yield "Objectives", table_of("objective", "window", "limit", rows=[(s.name, s.window, limit(s)) for s in specs])
    checked = f"at most {radius.clusters} hurt at once, at least {radius.survivors} survive (checked now)"
    guards = [("blast-radius", checked), *((guard.name, guard.describe()) for guard in guards_of(plan))]
    yield "Guards: heal at once, verdict unknown", table_of("guard", "trips unless", rows=guards)
    yield (
        "Holds: how long a recovery takes to be proven at 95 %",
        table_of(
            *("scope", "rate", "ratio", "good in a row", "takes"),
            rows=[(h.scope, f"{h.rate_rps:.1f} rps", f"{h.ratio:g}", h.ops, f"{h.seconds:.1f} s") for h in plan.holds],
        ),
    )


def limit(spec: ObjectiveSpec) -> str:
    """``≤ 10 s at ratio 0.99``."""
    sign = "≥" if spec.indicator in AT_LEAST else "≤"
    proven = f" at ratio {spec.ratio:g}" if spec.indicator in ("recovered", "service_back", "no_dip") else ""
    return f"{sign} {spec.limit:g} {spec.unit}{proven}"


def forecast_table(forecast: Forecast) -> Table:
    """What each model loses, whether it fits, and when its bytes are there (``LOADED``)."""
    return table_of(
        *("model", "replicas lost", "placeable", "fits", "where", "bytes to load", "loaded after", "why not"),
        rows=[
            (
                model.model,
                model.replicas_lost,
                placeable(model),
                "yes" if model.fits else "?" if model.undecided else "NO",
                where(model),
                f"{model.reload_bytes / 2**20:.0f} MiB" if model.reload_bytes else "",
                f"{model.reload_s:.2f} s" if model.reload_s is not None else "",
                "" if model.fits else model.reason,
            )
            for model in forecast.models
        ],
    )


def placeable(model: ModelForecast) -> str:
    """``2``, or ``2 to 3`` where only bounds are known."""
    limit = model.replicas_placeable_at_most
    return str(model.replicas_placeable) if limit is None else f"{model.replicas_placeable} to {limit}"


def where(model: ModelForecast) -> str:
    """The nodes that its replicas go to; the first few of many."""
    more = f" and {len(model.nodes) - SHOWN} more" if len(model.nodes) > SHOWN else ""
    return ", ".join(model.nodes[:SHOWN]) + more
