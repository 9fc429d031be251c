"""``blackstart fleet``: a fleet of real clusters that stays up between drills: up, status, kubeconfig, down."""

from __future__ import annotations

import contextlib
import shlex
import time
from pathlib import Path

import click

from drills.engine.commands.console import console_out, table_of
from drills.engine.commands.options import fleet_of
from drills.engine.safety.ledger import Entry, Ledger
from drills.engine.safety.lock import Locks, state_dir
from drills.engine.safety.restore import restore
from fleet.environments import lock_targets
from fleet.fleets import three_clusters
from history.errors import FleetError, UsageError


def _require_kind(context: click.Context, parameter: click.Parameter, value: str) -> None:
    if value != "kind":
        raise UsageError(
            f"environment {value!r} keeps no fleet up between runs",
            hint="`blackstart fleet` is for --env kind; `blackstart run` makes a local fleet by itself",
        )


on_kind = click.option(
    "--env",
    default="kind",
    show_default=True,
    expose_value=False,
    callback=_require_kind,
    help="Environment; only kind keeps a fleet up: local makes its own for each run.",
)


@click.group("fleet")
def command() -> None:
    """Keep a fleet of real Kubernetes clusters up between drills.

    \b
    blackstart fleet up --env kind              three clusters, a control plane and two GPU nodes each
    blackstart fleet up --env kind --small      one node a cluster, which is both: a third of the cost
    blackstart fleet status --env kind          clusters, nodes, GPUs, models, what can be reached
    blackstart fleet kubeconfig --env kind      paths for kubectl --kubeconfig; yours is never touched
    blackstart fleet down --env kind            everything of it away again, nothing else

    `blackstart run DRILL --env kind` uses the fleet that is up when it is the drill's, and leaves it up; else it makes
    one and takes it down at its end. Without Docker: `make docker-engine`; without images: `make kind-images`.
    """


@command.command("up")
@on_kind
@click.option("--fleet", "fleet_text", metavar="FLEET", help="Another fleet: a TOML file or a name, as for `run`.")
@click.option("--small", is_flag=True, help="One node a cluster that is its control plane too, with all its GPUs.")
@click.option(
    "--gateway-port", type=click.IntRange(0, 65535), default=0, metavar="PORT", help="Port of the entry point."
)
def up(fleet_text: str | None, small: bool, gateway_port: int) -> int:
    """Make the fleet, or make whole the one that is up.

    Clusters are made in parallel, GPUs put on, the serving image handed over; it returns when every replica of every
    model is ready and routed. If that fails, or at Ctrl-C, what was made is taken away. A cluster of the same name that
    somebody else made is never touched. No drill runs on the fleet meanwhile.
    """
    from fleet.environments.kind import lifecycle, topology
    from fleet.environments.kind.fleet import KindFleet
    from fleet.environments.kind.state import Folder

    console, began, locks, folder = console_out(), time.monotonic(), Locks(state_dir()), Folder()
    spec = three_clusters() if fleet_text is None else fleet_of(fleet_text)
    spec = topology.smaller(spec) if small else spec
    facts, run = KindFleet(spec, folder=folder).leftovers(), folder.root.resolve() / "up"
    locks.take(lock_targets("kind", spec), run=run, drill="fleet up", environment="kind", facts=facts)
    try:
        with _ledger("up").operation("fleet up", clusters=tuple(one.name for one in spec.clusters), text=spec.name):
            state = lifecycle.up(
                spec, folder, lambda line: console.print(f"   {line}"), gateway_port, facts["fleet_id"]
            )
    finally:
        locks.release(run)
    console.print(f"Fleet {spec.name} is up ({time.monotonic() - began:.1f} s)")
    console.print(f"Entry point: http://127.0.0.1:{state.ports['gateway']}")
    console.print("Next: blackstart run cluster-loss --env kind" + (f" --fleet {fleet_text}" if fleet_text else ""))
    return 0


@command.command("status")
@on_kind
def status() -> int:
    """Show clusters, nodes, GPUs allocatable and requested, models, and what can be reached. Exit 1 when not whole."""
    from fleet.environments.kind import hosting
    from fleet.environments.kind.fleet import KindFleet
    from fleet.environments.kind.state import Folder

    console, folder = console_out(), Folder()
    state = folder.read()
    if state is None:
        console.print("No fleet is up. Next: blackstart fleet up --env kind")
        return 1
    served = hosting.look(state, folder)
    fleet = KindFleet(state.spec, folder=folder)
    table = table_of("cluster", "API", "node", "answers", "GPUs allocatable", "requested", "replicas")
    requested: dict[str, int] = {}
    for row in served.rows:
        requested[row["node"]] = requested.get(row["node"], 0) + row["gpus"]
    for cluster in fleet.clusters if state.complete else ():
        reach = cluster.reachable()
        for node in cluster.describe().nodes:
            names = ", ".join(f"{row['name']} ({row['phase']})" for row in served.rows if row["node"] == node.name)
            table.add_row(
                cluster.name,
                "yes" if reach.api else "NO",
                node.name,
                "yes" if reach.nodes.get(node.name) else "NO",
                f"{served.gpus.get(node.name, '?')} of {node.gpus}",
                str(requested.get(node.name, 0)),
                names,
            )
    console.print(table)
    lacks = served.lacks(state) if hosting.alive(state) else "the processes outside the clusters do not run"
    lacks = lacks if state.complete else f"it is half made; {lacks}"
    console.print(f"Entry point: {fleet.layout.gateway_url}" if state.complete else "")
    next_step = "blackstart fleet up --env kind"
    for held in {lock.run: lock for lock in Locks(state_dir()).all() if lock.environment == "kind"}.values():
        alive = held.owner.alive
        next_step = "blackstart watch" if alive else f"blackstart restore {shlex.quote(held.run)}"
        console.print(f"{'In use, and perhaps hurt on purpose' if alive else 'Its user died'}: {held}")
    console.print(f"Not whole: {lacks}. Next: {next_step}" if lacks else "Whole.")
    return 1 if lacks else 0


@command.command("kubeconfig")
@on_kind
@click.argument("cluster", required=False)
def kubeconfig(cluster: str | None) -> int:
    """Print the path of CLUSTER's kubeconfig, or of all; kubectl --kubeconfig "$(blackstart fleet kubeconfig C)"."""
    from fleet.environments.kind.state import Folder

    folder = Folder()
    state = folder.read()
    if state is None:
        raise FleetError("no fleet is up", hint="blackstart fleet up --env kind")
    names = [one.name for one in state.spec.clusters]
    if cluster is not None:
        state.spec.cluster(cluster)
        names = [cluster]
    for name in names:
        click.echo(folder.kubeconfig(name))
    return 0


@command.command("down")
@on_kind
def down() -> int:
    """Take the fleet away: processes, containers, volumes, network, folder. Nothing that is not its own.

    Refused while a drill holds one of its clusters. What a run that died left in them is gone with them: its lock too.
    """
    from fleet.environments.kind import lifecycle
    from fleet.environments.kind.state import Folder

    console, began, locks, folder = console_out(), time.monotonic(), Locks(state_dir()), Folder()
    names: tuple[str, ...] = ()
    with contextlib.suppress(FleetError):  # a damaged file keeps nobody from taking the fleet away
        names = tuple(one.name for one in found.spec.clusters) if (found := folder.read()) else ()
    with locks.mutex():
        held = locks.of_environment("kind")
        for lock in held:
            locks.require_dead(lock)
        with _ledger("down").operation("fleet down", clusters=names) as done:

            def say(line: str) -> None:
                done.append(line)
                console.print(f" ✓ {line}")

            lifecycle.down(folder, say)
    for run in sorted({lock.run for lock in held}):
        for line in restore(Path(run), state_dir(), by="blackstart fleet down"):
            console.print(f" ✓ {line}")
    console.print(f"No fleet is up ({time.monotonic() - began:.1f} s)")
    return 0


def _ledger(command: str) -> Ledger:
    return Ledger(state_dir(), Entry(environment="kind", command_line=("blackstart", "fleet", command)))
