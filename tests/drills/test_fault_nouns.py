"""Faults of clusters and of weight stores through one seam: mistakes, missing controls, what is asked of a control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drills.engine.nouns import (
    Baseline,
    CablePull,
    ControlPlaneCut,
    CorruptWeights,
    Destroy,
    Drill,
    Fault,
    Inject,
    Observe,
    OpenLoop,
    Partition,
    PowerLoss,
    Restore,
    Step,
    WeightStoreBrownout,
)
from drills.engine.nouns import objectives as o
from fleet import fleets
from history.errors import FaultError
from history.records import Signal

OF_CLUSTERS: tuple[tuple[Fault, tuple[str, str, str, str]], ...] = (
    (CablePull("cobalt"), ("pull_cables", "verify_cables_pulled", "plug_in", "verify_plugged_in")),
    (Partition("cobalt"), ("cut_off", "verify_cut_off", "reconnect", "verify_reconnected")),
    (
        ControlPlaneCut("cobalt"),
        ("cut_control_plane", "verify_control_plane_cut", "mend_control_plane", "verify_control_plane_mended"),
    ),
    (Destroy("cobalt"), ("destroy", "verify_destroyed", "rebuild", "verify_rebuilt")),
)
OF_STORES: tuple[tuple[Fault, tuple[Any, ...], tuple[Any, ...]], ...] = (
    (WeightStoreBrownout("weights", 0.25), ("brown_out", "weights", 0.25), ("verify_store", "weights", 0.25, False)),
    (CorruptWeights("weights"), ("corrupt", "weights"), ("verify_store", "weights", 1.0, True)),
)


class Recording:
    """Has every control and writes down what it is asked."""

    name = "cobalt"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, control: str) -> Any:
        def asked(*arguments: Any, **named: Any) -> tuple[Signal, ...]:
            self.asked.append((control, *arguments, *named.values()))
            return (Signal(control, True, ""),)

        return asked


class Bare:
    """Has no control at all."""

    name = "cobalt"


@pytest.mark.parametrize(("fault", "controls"), OF_CLUSTERS, ids=lambda value: type(value).__name__)
def test_each_method_of_a_fault_asks_its_own_control(fault: Fault, controls: tuple[str, ...]) -> None:
    cluster = Recording()
    for act in (fault.inject, fault.verify, fault.heal, fault.verify_healed):
        act(cluster)
    assert tuple(name for (name,) in cluster.asked) == controls
    assert fault.unsupported(cluster) == ""
    assert (fault.cluster, fault.target, fault.mark(None).cluster) == ("cobalt", "cobalt", "cobalt")


@pytest.mark.parametrize(("fault", "injected", "verified"), OF_STORES, ids=lambda value: type(value).__name__)
def test_a_store_fault_asks_the_fleet(fault: Fault, injected: tuple[Any, ...], verified: tuple[Any, ...]) -> None:
    fleet = Recording()
    for act in (fault.inject, fault.verify, fault.heal, fault.verify_healed):
        act(fleet)
    mended = [("mend_store", "weights"), ("verify_store", "weights", 1.0, False)]
    assert fleet.asked == [injected, verified, *mended]
    assert (fault.cluster, fault.target, fault.mark(None).cluster) == ("", "weights", "")


@pytest.mark.parametrize("fault", [f for f, *_ in (*OF_CLUSTERS, *OF_STORES)], ids=lambda f: type(f).__name__)
def test_an_environment_without_the_control_is_said_to_lack_it(fault: Fault) -> None:
    assert "this environment" in fault.unsupported(Bare())
    for act in (fault.inject, fault.verify, fault.heal, fault.verify_healed):
        with pytest.raises(FaultError):
            act(Bare())


def drill(*steps: Step) -> Drill:
    return Drill(
        name="stores",
        fleet=fleets.small(),
        load=OpenLoop(rate_rps=100),
        steps=[Baseline(seconds=1), *steps, Observe(at_most_s=20)],
        objectives=[o.lost(at_most=1)],
    )


def test_a_store_is_no_cluster_in_the_blast_radius_and_can_be_restored() -> None:
    both = (Inject(PowerLoss("cobalt")), Inject(WeightStoreBrownout("weights")))
    assert drill(*both).problems() == ()
    assert drill(*both, Restore("weights"), Restore("cobalt")).problems() == ()
    (problem,) = drill(*both, Restore("weights-copy")).problems()
    assert "no fault was injected into it" in problem.text


def test_a_store_that_is_not_there_is_a_mistake_with_the_names_that_are() -> None:
    (problem,) = drill(Inject(CorruptWeights("elsewhere"))).problems()
    assert "no weight store 'elsewhere'" in problem.text
    assert "weights, weights-copy" in problem.text
    single = replace(drill(Inject(CorruptWeights("weights-copy"))), fleet=fleets.small(stores=1))
    assert len(single.problems()) == 1
