"""``blackstart plan``: what a drill would do, and what must happen; touches nothing."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from drills.engine.commands.console import out as console_out
from drills.engine.commands.options import plan_of, planning
from drills.engine.safety.plan import Plan
from history.records import AT_LEAST, Forecast


@click.command("plan")
@planning
def command(drill: str, environment: str, seed: int, fleet_text: str | None) -> int:
    """Show what DRILL would do, without doing it.

    Resolved targets and blast radius, steps with their times, objectives, how long a hold takes to be proven at each
    model's rate, and the N-1 forecast: which models fit where if the victim goes, and how long their bytes must take.
    All mistakes of the file are listed at once, with file and line (exit 4).
    """
    plan = plan_of(drill, environment, seed, fleet_text)
    console = console_out()
    console.print(f"{plan.drill.name}: {plan.file.summary}")
    console.print(
        f"file {plan.file.path} · environment {plan.environment} · seed {plan.seed} · at most "
        f"{plan.drill.longest_s():g} s",
        soft_wrap=True,
    )
    for title, table in (
        ("Fleet", fleet_table(plan)),
        ("Steps", steps_table(plan)),
        ("Objectives", objectives_table(plan)),
        ("Holds: how long a recovery takes to be proven at 95 %", holds_table(plan)),
    ):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(table)
    for forecast in plan.forecasts:
        console.print(Text(f"\nForecast: if {forecast.victim} goes", style="bold"))
        console.print(
            f"  {forecast.gpus_needed} GPUs must be found, {forecast.gpus_free} are free on the survivors: "
            + ("every model fits." if forecast.fits else "NOT every model fits."),
            soft_wrap=True,
        )
        console.print(forecast_table(forecast))
    return 0


def fleet_table(plan: Plan) -> Table:
    """Clusters, their nodes and GPUs, and which of them the drill hurts."""
    table = _table("cluster", "nodes", "GPUs", "in this drill")
    hurt = {mark.cluster: mark for mark in plan.marks}
    for cluster in plan.drill.fleet.clusters:
        mark = hurt.get(cluster.name)
        role = f"victim: {mark.kind} ({mark.signature})" if mark else "must survive"
        gpus = " + ".join(str(node.gpus) for node in cluster.nodes)
        table.add_row(cluster.name, str(len(cluster.nodes)), gpus, role)
    return table


def steps_table(plan: Plan) -> Table:
    """Steps in order with the longest that each can last."""
    table = _table("step", "at most")
    for step in plan.drill.steps:
        table.add_row(step.describe(), f"{step.longest_s():g} s" if step.longest_s() else "")
    return table


def objectives_table(plan: Plan) -> Table:
    """Objectives with window and limit."""
    table = _table("objective", "window", "limit")
    for objective in plan.drill.objectives:
        spec = objective.spec
        sign = "≥" if spec.indicator in AT_LEAST else "≤"
        proven = f" at ratio {spec.ratio:g}" if spec.indicator in ("recovered", "service_back", "no_dip") else ""
        table.add_row(spec.name, spec.window, f"{sign} {spec.limit:g} {spec.unit}{proven}")
    return table


def holds_table(plan: Plan) -> Table:
    """Rate, ops in a row and seconds that each recovery objective needs."""
    table = _table("scope", "rate", "ratio", "good in a row", "takes")
    for hold in plan.holds:
        table.add_row(hold.scope, f"{hold.rate_rps:.1f} rps", f"{hold.ratio:g}", str(hold.ops), f"{hold.seconds:.1f} s")
    return table


def forecast_table(forecast: Forecast) -> Table:
    """What each model loses, whether it fits, and the least time that its bytes need."""
    table = _table("model", "replicas lost", "placeable", "fits", "bytes to load", "at least", "why not")
    for model in forecast.models:
        table.add_row(
            model.model,
            str(model.replicas_lost),
            str(model.replicas_placeable),
            "yes" if model.fits else "NO",
            f"{model.reload_bytes / 2**20:.0f} MiB" if model.reload_bytes else "",
            f"{model.reload_s:.2f} s" if model.reload_s is not None else "",
            "" if model.fits else model.reason,
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=True, header_style="dim")
    for column in columns:
        table.add_column(column)
    return table
