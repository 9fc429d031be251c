"""One builder of run headers for all tests and benchmarks: what a caller does not say is empty or harmless."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from history.clock import Anchor
from history.records import (
    ClusterFacts,
    FleetFacts,
    LoadSpec,
    Mix,
    MixEntry,
    ModelFacts,
    NodeFacts,
    Placement,
    RunHeader,
    Target,
)

CLUSTERS = ("amber", "cobalt", "jade")


def header(**given: Any) -> RunHeader:
    """A header with the fields of ``RunHeader`` that are given."""
    fields: dict[str, Any] = {
        "run_id": "run-1",
        "drill": "scripted",
        "description": "",
        "seed": 1,
        "environment": "local",
        "anchor": Anchor(0, 0),
        "command_line": ("blackstart",),
        "versions": (),
        "commit": "",
        "dirty": False,
        "host": (),
        "fleet": FleetFacts("none", (), (), ()),
        "target": Target("http://127.0.0.1:1"),
        "mix": Mix(()),
        "load": load(),
        "steps": (),
        "faults": (),
        "objectives": (),
    }
    return RunHeader(**fields | given)


def load(rate_rps: float = 100.0, horizon_s: float = 60.0, **given: Any) -> LoadSpec:
    """A constant load: good within 500 ms, time-outs as in drills."""
    fields: dict[str, Any] = {"shape": "constant", "good_within_ms": 500.0, "connect_timeout_s": 0.9, "seed": 1}
    return LoadSpec(**fields | {"total_timeout_s": 5.0, "rate_rps": rate_rps, "horizon_s": horizon_s} | given)


def mix(models: Iterable[str]) -> Mix:
    """Chat with each of these models in equal shares."""
    names = tuple(models)
    return Mix(tuple(MixEntry(name, "chat", 1 / len(names)) for name in names))


def fleet(
    homes: Iterable[tuple[str, str]], classes: dict[str, str], clusters: Iterable[str] = CLUSTERS, gpus: int = 8
) -> FleetFacts:
    """Clusters of one node; ``homes``: (model, cluster) of each replica; ``classes``: the class of each model."""
    placed, share = tuple(homes), 1 / max(len(classes), 1)
    counts = {name: sum(model == name for model, _ in placed) for name in classes}
    return FleetFacts(
        "small",
        tuple(ClusterFacts(name, (NodeFacts(f"{name}-n1", gpus),), "", ()) for name in clusters),
        tuple(ModelFacts(name, "chat", group, 1, 1, counts[name], 1, share) for name, group in classes.items()),
        tuple(Placement(model, cluster, f"{cluster}-n1", f"{model}-{cluster}") for model, cluster in placed),
    )
