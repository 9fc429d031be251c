"""A fallback's answer is degraded: no good answer of the model that was asked, and told apart from failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from assertions import analyze

if TYPE_CHECKING:
    from tests.assertions.conftest import Script


def test_degraded_answers_are_counted_apart_and_are_no_recovery(script: Script) -> None:
    model = script.run().header.fleet.models[0].name
    hurt = script.fail(0, 5, (model,)).change(5, 12, (model,), fallback="stand-in")
    result = analyze(hurt.run())
    found = result.models[model]
    assert found.recovered_s == pytest.approx((12, 12), abs=0.1), "a stand-in's answers are not the model's own"
    assert found.degraded == result.totals.degraded > 100
    assert found.bad > found.degraded
    assert result.totals.errors["degraded"] == found.degraded
    assert "late" not in result.totals.errors
    assert analyze(script.run()).totals.degraded == 0
