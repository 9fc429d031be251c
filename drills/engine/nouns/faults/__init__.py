"""Faults: what is done, how that is verified, and how it is undone. Never trusted until verified.

base.py            ``Fault``: the seam
cluster_faults.py  PowerLoss, Freeze, Partition, ControlPlaneCut, Destroy, Noop
store_faults.py    WeightStoreBrownout, CorruptWeights

A fault is a value in a drill script; the runner hands it its live subject. ``heal`` is safe to call twice.
"""

from drills.engine.nouns.faults.base import Fault, fault_problems
from drills.engine.nouns.faults.cluster_faults import ControlPlaneCut, Destroy, Freeze, Noop, Partition, PowerLoss
from drills.engine.nouns.faults.store_faults import CorruptWeights, WeightStoreBrownout

__all__ = [
    "ControlPlaneCut",
    "CorruptWeights",
    "Destroy",
    "Fault",
    "Freeze",
    "Noop",
    "Partition",
    "PowerLoss",
    "WeightStoreBrownout",
    "fault_problems",
]
