"""cluster-loss, ten seeds in a row, and on a fleet without headroom. `make soak SEEDS=10`; not part of `make test`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from history.op import FAULT_INJECT
from history.reader import Run, read_run
from tests.drills.harness import first_answer_again_ns, run_until_measured

pytestmark = [pytest.mark.soak, pytest.mark.drill, pytest.mark.timeout(690)]

SEEDS = range(1, 1 + int(os.environ.get("SEEDS", "10")))


def read(path: Path) -> tuple[Run, dict[str, Any]]:
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    return read_run(path), result


def every_send_is_recorded(run_: Run, result: dict[str, Any]) -> None:
    np.testing.assert_array_equal(run_.load.seq, np.arange(len(run_.load)))
    assert not run_.load.error.where("no-record").any()
    assert run_.duplicates == 0
    assert result["validity"]["scheduled"] == result["validity"]["recorded"] == len(run_.load)


@pytest.mark.parametrize("seed", SEEDS)
def test_cluster_loss_passes(seed: int, tmp_path: Path) -> None:
    code, out, left, path = run_until_measured("cluster-loss", "--seed", str(seed), out=tmp_path, timeout_s=200)
    assert code == 0, out
    assert left == []
    run_, result = read(path)
    every_send_is_recorded(run_, result)
    (injected,) = run_.history.of_kind(FAULT_INJECT)
    victims = {p.model for p in run_.header.fleet.placements if p.cluster == "cobalt"}
    elsewhere = {p.model for p in run_.header.fleet.placements if p.cluster != "cobalt"}
    assert victims - elsewhere, "models whose servers all died: only their logs can say when they answered again"
    for model in victims - elsewhere:
        truth_s = (first_answer_again_ns(run_, path / "logs", model) - injected.t_intended) / 1e9
        low, high = result["models"][model]["service_back_s"]
        assert low <= truth_s <= high, model


def test_without_headroom_it_fails_and_names_what_did_not_fit(tmp_path: Path) -> None:
    unready = ("--fleet", "three-clusters:headroom=0", "--expect-fail")
    code, out, left, path = run_until_measured("cluster-loss", *unready, out=tmp_path, timeout_s=220)
    assert code == 1, out
    assert left == []
    run_, result = read(path)
    every_send_is_recorded(run_, result)
    assert result["verdict"] == "fail"
    reasons = " ".join(result["reasons"])
    assert "ft-davinci" in reasons
    assert "GPU" in reasons
    assert result["models"]["ft-davinci"]["unplaceable"]
