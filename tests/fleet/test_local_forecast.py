"""The allocator does what the forecast said, on real processes; and a fleet on 127.0.0.1 alone dies just as well."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from fleet import fleets
from fleet.environments.local import addresses
from fleet.environments.local.addresses import Addresses
from fleet.environments.local.fleet import LocalFleet
from fleet.forecast import forecast
from fleet.spec import ClusterSpec, FleetSpec, NodeSpec
from history.op import UNPLACEABLE, Op


def tight() -> FleetSpec:
    """The micro fleet with 2 GPUs in amber and jade: 1 free in all, 4 needed when cobalt goes."""
    base = fleets.micro()
    gpus = {"amber": 2, "cobalt": 4, "jade": 2}
    clusters = tuple(ClusterSpec(n, (NodeSpec(f"{n}-n1", gpus[n], 16 * 1024 * 1024),)) for n in fleets.CLUSTERS)
    return replace(base, clusters=clusters)


def test_who_fits_is_forecast_and_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "reserve", lambda: Addresses(0, None))
    spec = tight()
    with LocalFleet(spec) as fleet:
        assert "127.0.0.1" in fleet.target().entry_url
        cobalt = fleet.clusters[1]
        predicted = forecast(spec, fleet.facts().placements, "cobalt")
        assert {row.model: row.fits for row in predicted.models if row.replicas_lost} == {
            "chat": True,
            "code": False,
            "embed": False,
        }
        seen: list[Op] = []
        stop = threading.Event()
        thread = threading.Thread(target=fleet.controller.watch, args=(seen.append, stop))
        thread.start()
        cobalt.power_off("refused")
        for attempt in Retrying(
            stop=stop_after_delay(6), wait=wait_fixed(0.02), retry=retry_if_exception_type(AssertionError), reraise=True
        ):
            with attempt:
                assert all(signal.ok for signal in cobalt.verify_power_off())
                rows = [row for cluster in (fleet.clusters[0], fleet.clusters[2]) for row in cluster.replicas()]
                assert sorted(row["model"] for row in rows if row["phase"] == "Ready") == ["chat"] * 3 + ["curie"]
                assert {op.model for op in seen if op.kind == UNPLACEABLE} == {"code", "embed"}
        stop.set()
        thread.join(3)
        reason = next(op.detail["reason"] for op in seen if op.kind == UNPLACEABLE and op.model == "code")
        assert "needs 2 GPU(s) on one node" in reason
        assert "jade-n1 0" in reason
