"""The fault's seam, proven by whole drills through every kind of fault, with restore and fail-back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from assertions.happened import WAITING
from drills.engine.nouns import PowerLoss
from fleet import fleets
from fleet.environments import open_fleet
from fleet.protocols import PowerControl
from history.op import FAULT_HEALED, FAULT_VERIFIED
from history.reader import read_run
from loadgen.probers import CLUSTER_LIMIT_S
from tests.drills.harness import MICRO, TRIES_LIMIT_S, run_until_measured

pytestmark = [pytest.mark.drill, pytest.mark.timeout(TRIES_LIMIT_S)]

RESTORE = """        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=20),
    ],
    objectives=["""


def drill_with(tmp_path: Path, fault: str) -> Path:
    """The micro-drill with another fault, a restore, and an objective on the failback."""
    text = MICRO.read_text()
    if "Freeze" in fault or "black-hole" in fault:  # silent for longer than a probe waits: else it has its answer, late
        text = text.replace("at_most_s=15", f"at_most_s=15, then_s={CLUSTER_LIMIT_S}")
    text = text.replace('PowerLoss("cobalt")', fault).replace(
        "OpenLoop, PowerLoss,", "OpenLoop, PowerLoss, Freeze, Restore,"
    )
    text = text.replace("    ],\n    objectives=[", RESTORE, 1).replace(
        "o.lost(at_most=500),", 'o.no_dip(window="failback"),'
    )
    path = tmp_path / "seam.py"
    path.write_text(text)
    return path


def black_hole_possible() -> bool:
    cluster = open_fleet("local", fleets.micro()).clusters[1]
    assert isinstance(cluster, PowerControl)
    return "black-hole" in cluster.signatures


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        ('PowerLoss("cobalt")', {"refused"}),
        ('Freeze("cobalt")', {"timeout"}),
        ('PowerLoss("cobalt", signature="black-hole")', {"connect-timeout", "timeout"}),
    ],
)
def test_each_fault_is_injected_verified_healed_and_failed_back(tmp_path: Path, fault: str, errors: set[str]) -> None:
    if "black-hole" in fault and not black_hole_possible():
        pytest.skip("a black hole needs root and a working iptables")
    code, out, left, path = run_until_measured(str(drill_with(tmp_path, fault)), out=tmp_path / "runs")
    assert code == 0, out
    assert "all failed back: proven" in out
    assert left == []
    history = read_run(path).history
    assert [op.outcome for op in history.of_kind(FAULT_VERIFIED, FAULT_HEALED)] == ["ok", "ok"]
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    seen = Counter[str]()
    for entry in result["faults"][0]["seen"]:
        seen[entry["error"]] += entry["count"]
    del seen[WAITING]  # as it came back: they say nothing of the fault
    assert sum(seen[error] for error in errors) >= 0.8 * seen.total() > 0, f"the cluster prober saw {seen}"
    low, high = result["models"]["code"]["service_back_s"]
    assert 0 < low <= high < 5


def test_a_black_hole_is_refused_at_plan_time_where_it_cannot_be() -> None:
    class WithoutRoot:
        name = "cobalt"
        signatures = ("refused",)

        def power_off(self, signature: str) -> None: ...
        def verify_power_off(self) -> tuple[()]: ...  # type: ignore[empty-body]
        def power_on(self) -> None: ...
        def verify_power_on(self) -> tuple[()]: ...  # type: ignore[empty-body]

    fault = PowerLoss("cobalt", signature="black-hole")
    assert "not possible here" in fault.unsupported(WithoutRoot())
    assert PowerLoss("cobalt").unsupported(WithoutRoot()) == ""
