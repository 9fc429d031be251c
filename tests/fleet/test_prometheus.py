"""Prometheus: configuration, the profile, and loud failures. (What a real one answers: test_local_fleet.)"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from fleet import prometheus
from history.clock import Anchor, now_ns
from history.errors import UsageError
from history.op import PROMETHEUS, QUERY, Op

TARGETS = (prometheus.ScrapeTarget("127.1.1.1:80", "agent", "amber", "amber-n1"),)


def test_the_profile_names_what_objectives_need() -> None:
    profile = {query.name: query.query for query in prometheus.load_profile()}
    used = {"cache_requests", "store_bytes", "weight_bytes", "gpus_allocated", "gpus_total"}
    assert set(profile) == used | {"store_busy", "store_impatient", "weight_corrupt"}
    assert not any("rate(" in query for query in profile.values())
    with pytest.raises(UsageError, match="'vllm'"):
        prometheus.load_profile("vllm")


def test_the_configuration_scrapes_each_second_with_labels(tmp_path: Path) -> None:
    argv = prometheus.command(
        "/bin/prometheus", tmp_path / "p", "127.0.0.1", 9, TARGETS, ("http://127.1.1.2:1/targets",)
    )
    assert f"--config.file={tmp_path / 'p' / 'prometheus.yml'}" in argv
    assert "--web.listen-address=127.0.0.1:9" in argv
    written = json.loads((tmp_path / "p" / "prometheus.yml").read_text())
    assert written["global"]["scrape_interval"] == "1s"
    (job,) = written["scrape_configs"]
    assert job["honor_labels"] is True
    assert job["static_configs"] == [
        {"targets": ["127.1.1.1:80"], "labels": {"service": "agent", "cluster": "amber", "node": "amber-n1"}}
    ]
    assert job["http_sd_configs"] == [{"url": "http://127.1.1.2:1/targets", "refresh_interval": "1s"}]


def test_no_binary_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))  # make setup may have put one beside ours
    assert prometheus.find_binary() is None
    beside = tmp_path / "prometheus"
    beside.touch(mode=0o755)
    assert prometheus.find_binary() == str(beside)
    assert "install" in prometheus.ABSENT


def test_a_prometheus_that_does_not_answer_fails_loudly_and_soon() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"  # bound, not listening: refused
        ops: list[Op] = []
        began = now_ns()
        prometheus.record(url, began - 10**9, began, Anchor.take(), ops.append)
        assert not prometheus.wait_ready(url, limit_s=0.05)
    assert now_ns() - began < 3 * 10**9
    assert len(ops) == len(prometheus.load_profile())
    for op in ops:
        assert (op.source, op.kind, op.outcome, op.error) == (PROMETHEUS, QUERY, "fail", prometheus.FAILED)
        assert op.detail["series"] == []
        assert "ConnectionError" in op.detail["reason"]
