"""What a drill script is made of. Values without side effects; every one knows the line that wrote it."""

from drills.engine.nouns.drill import Ablation, BlastRadius, Drill, OpenLoop
from drills.engine.nouns.faults import (
    CablePull,
    ControlPlaneCut,
    CorruptWeights,
    Destroy,
    Fault,
    Freeze,
    Noop,
    Partition,
    PowerLoss,
    WeightStoreBrownout,
)
from drills.engine.nouns.guards import Guard
from drills.engine.nouns.located import Located, Problem, Where
from drills.engine.nouns.objectives import Objective
from drills.engine.nouns.steps import Baseline, Inject, Observe, Restore, Stage, Step, Until
from history.records import StoryPost

__all__ = [
    "Ablation",
    "Baseline",
    "BlastRadius",
    "CablePull",
    "ControlPlaneCut",
    "CorruptWeights",
    "Destroy",
    "Drill",
    "Fault",
    "Freeze",
    "Guard",
    "Inject",
    "Located",
    "Noop",
    "Objective",
    "Observe",
    "OpenLoop",
    "Partition",
    "PowerLoss",
    "Problem",
    "Restore",
    "Stage",
    "Step",
    "StoryPost",
    "Until",
    "WeightStoreBrownout",
    "Where",
]
