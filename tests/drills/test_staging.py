"""A restore in stages: what is done to the cluster, each stage an op, checks as declared, and an early end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from assertions.live import Progress
from drills.engine.nouns import Restore, Stage, Until
from drills.engine.runner import staging
from drills.engine.runner.guarding import RunStopped
from drills.engine.runner.staging import Staging
from history.clock import NS_PER_S
from history.op import RESTORE_STAGE
from history.records import Signal

YES, NO = (Signal("x", True, "yes"),), (Signal("x", False, "no"),)
OLD = "apiVersion: extensions/v1beta1\nkind: Ingress\n"


class Cluster:
    """Has every control that stages ask for, and remembers what was done."""

    name = "cobalt"
    signatures = ("refused",)

    def __init__(self) -> None:
        self.did: list[str] = []
        self.shares: list[float] = []
        self.version = "1.21"
        self.seen = YES

    def __getattr__(self, name: str) -> Any:
        def act(*arguments: Any) -> Any:
            self.did.append(name)
            return self.seen if name.startswith("verify") else None

        return act

    def hold(self, held: bool) -> None:
        self.did.append(f"hold {held}")

    def served(self) -> tuple[str, ...]:
        return ("extensions/v1beta1/Ingress",) if self.version == "1.21" else ("networking.k8s.io/v1/Ingress",)

    def upgrade(self, version: str) -> str:
        if version < self.version:
            return "no downgrade"
        self.version = version
        return ""

    def set_traffic_share(self, share: float) -> None:
        self.shares.append(share)

    def traffic_share(self) -> float:
        return self.shares[-1]


class Session:
    """A clock that only waiting moves, and what was recorded."""

    def __init__(self, cluster: Cluster) -> None:
        self.now_ns, self.ops, self.healed = 0, list[dict[str, Any]](), 0
        self.entered: list[tuple[str, str]] = []
        self.fleet = type("Fleet", (), {"clusters": (cluster,)})
        self.recorder = type("Recorder", (), {"event": self.event})
        self.view = type("View", (), {"note": lambda text: None})

    def clock(self) -> int:
        return self.now_ns

    def event(self, kind: str, **fields: Any) -> None:
        self.ops.append({"kind": kind, **fields})

    @contextlib.contextmanager
    def stage(self, does: str, cluster: str) -> Iterator[None]:
        self.entered.append((does, cluster))
        yield

    def heal(self, _: str) -> tuple[Signal, ...]:
        self.healed += 1
        return YES

    def wait(self, until_ns: int, _: str, criterion: Until | None) -> tuple[bool, str]:
        if criterion is not None and criterion.check(None, until_ns).done:  # type: ignore[arg-type]
            return True, ""
        self.now_ns = max(self.now_ns, until_ns)
        return False, ""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(staging, "unsupported", lambda cluster: "")
    return Cluster()


def carry_out(cluster: Cluster, *stages: Stage, unless: Until | None = None) -> Session:
    session = Session(cluster)
    Staging(session, Restore("cobalt", stages, unless), session.wait).run()  # type: ignore[arg-type]
    return session


def test_the_restore_of_june_is_stages_with_durations_and_checks(cluster: Cluster) -> None:
    session = carry_out(
        cluster,
        Stage("found", 3.0),
        Stage("set-up", 2.0, "set up"),
        Stage("lost", 4.0, "cut control plane"),
        Stage("VPN", 1.0, "mend control plane"),
        Stage("upgraded", 1.0, "upgrade", "1.22"),
        Stage("ingress", 1.0, "check ingress", OLD, refused=True),
        Stage("no way back", 0.5, "downgrade", "1.21", refused=True),
        Stage("torn down", 2.0, "tear down"),
        Stage("rebuilt", 0.5, "rebuild"),
        Stage("traffic", 5.0, "return traffic"),
    )
    assert [op["kind"] for op in session.ops] == [RESTORE_STAGE] * 10
    took = [(op["done_ns"] - op["at_ns"]) / NS_PER_S for op in session.ops]
    assert took == [op["seconds"] for op in session.ops] == [3.0, 2.0, 4.0, 1.0, 1.0, 1.0, 0.5, 2.0, 0.5, 5.0]
    assert all(op["ok"] for op in session.ops)
    assert "extensions/v1beta1/Ingress" in session.ops[5]["signals"][0]["seen"]
    assert cluster.did[0] == "hold True", "the controller must not take a half-built cluster for returned"
    assert cluster.did[-1] == "hold False"
    order = [name for name in cluster.did if not name.startswith(("verify", "hold"))]
    assert order == ["power_on", "cut_control_plane", "mend_control_plane", "power_off"]
    assert session.healed == 1
    assert session.entered[1:3] == [("set up", "cobalt"), ("cut control plane", "cobalt")]
    assert len(session.entered) == 10
    assert cluster.shares == pytest.approx([n / 10 for n in range(11)])


def test_a_check_that_comes_out_otherwise_than_declared_ends_the_run(cluster: Cluster) -> None:
    with pytest.raises(RunStopped, match="stage 1 of 2: ingress: not as declared: the cluster serves"):
        carry_out(cluster, Stage("ingress", 1.0, "check ingress", OLD, refused=True), Stage("rebuilt", 0.0, "rebuild"))
    cluster.seen = NO
    with pytest.raises(RunStopped, match="not as declared: no"):
        carry_out(cluster, Stage("lost", 1.0, "cut control plane"))


def test_what_proves_nothing_any_more_is_left_out(cluster: Cluster) -> None:
    done = Until("all recovered", lambda run, now_ns: Progress(now_ns >= 5 * NS_PER_S, ""))
    session = carry_out(
        cluster, Stage("a", 3.0), Stage("b", 3.0), Stage("c", 3.0), Stage("rebuilt", 0.0, "rebuild"), unless=done
    )
    assert [op["name"] for op in session.ops] == ["a", "b"]
    assert session.healed == 0, "the session heals at its end"
