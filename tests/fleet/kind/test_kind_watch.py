"""List, then watch: what is heard, what a silence is, what a gap is; and GPUs that are put on again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from fleet.environments.kind.kubernetes import watch as module
from fleet.environments.kind.kubernetes.client import Api, Unreachable, require_open
from fleet.environments.kind.kubernetes.gpus import LEASES, reconcile
from fleet.environments.kind.kubernetes.watch import PodWatch, Sight
from fleet.environments.kind.manifests import gpu_status, node_patch
from fleet.environments.kind.observing import PodOps, only_weights
from fleet.environments.kind.topology import Machine
from history.op import Op

BOOT = 1_795_521_600.0


def raw(
    uid: str = "u1", *, ready: bool = True, version: int = 1, since: str = "2026-11-24T12:00:05Z"
) -> dict[str, Any]:
    return {
        "metadata": {
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"blackstart.dev/replica": f"chat-{uid}", "blackstart.dev/model": "chat"},
            "annotations": {},
        },
        "spec": {"nodeName": "box", "containers": [{}]},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"state": {"running": {"startedAt": since}}, "ready": ready}],
        },
    }


class Script:
    """An API whose lists and watches are written down beforehand; stops the watch at the end."""

    def __init__(self, lists: list[Any], watches: list[Any], stop: threading.Event) -> None:
        self.lists, self.watches, self.stop = lists, watches, stop
        self.versions: list[str] = []

    def get(self, path: str, **query: object) -> Any:
        if not self.lists:
            self.stop.set()
            raise Unreachable("gone", hint="")
        said = self.lists.pop(0)
        if isinstance(said, Exception):
            raise said
        return {"items": said, "metadata": {"resourceVersion": "10"}}

    @contextmanager
    def stream(self, path: str, silence_s: float, query: dict[str, str]) -> Iterator[Iterator[Any]]:
        self.versions.append(query["resourceVersion"])
        if not self.watches:
            self.stop.set()
            raise Unreachable("gone", hint="")
        said = self.watches.pop(0)
        if isinstance(said, Exception):
            raise said
        yield self._play(said)

    def _play(self, said: list[Any]) -> Iterator[Any]:
        for one in said:
            if isinstance(one, Exception):
                raise one
            yield one


def change(kind: str, pod: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": pod}


def played(
    lists: list[Any], watches: list[Any], boots: list[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Op], Script]:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    stop, ops, times = threading.Event(), list[Op](), iter(range(1, 10_000))
    script = Script(lists, watches, stop)
    lives = iter([*boots, *[boots[-1]] * 50])

    def look() -> Sight:
        return Sight(cast(Api, script), {"box": "amber-n1"}, {"box": next(lives)})

    watch = PodWatch(look, clock=lambda: next(times))
    taker = PodOps("amber", "observer-amber", ops.append, clock=lambda: next(times))
    watch.run(taker, stop)
    taker.end(watch.heard_ns)
    return ops, script


def kinds(ops: list[Op]) -> list[str]:
    return [op.kind.removeprefix("replica.") for op in ops]


def test_a_silence_is_no_gap_when_the_watch_goes_on_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = [change("MODIFIED", raw(ready=False, version=12)), TimeoutError()]
    after = [change("MODIFIED", raw(version=13)), change("DELETED", raw(version=14))]
    ops, script = played([[raw(ready=False)]], [quiet, after], [BOOT], monkeypatch)
    assert script.versions[:2] == ["10", "12"]
    assert kinds(ops)[:5] == ["created", "scheduled", "started", "ready", "gone"]
    stamps = [op.t_done for op in ops]
    assert stamps == sorted(stamps)


def test_a_break_is_a_gap_and_the_story_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    ops, _ = played([[raw()], Unreachable("x", hint=""), [raw(), raw("u2")]], [[]], [BOOT], monkeypatch)
    assert kinds(ops)[:4] == ["created", "scheduled", "started", "ready"]
    gap = ops[4]
    assert gap.kind == "watch.gap"
    assert gap.t_intended < gap.t_done
    assert [op.replica for op in ops[5:] if op.kind != "watch.gap"] == ["chat-u2"] * 4, "u1 was known"


def test_who_went_in_the_gap_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    ops, _ = played([[raw()], []], [[]], [BOOT], monkeypatch)
    assert "gone" in kinds(ops)


def test_after_the_nodes_began_anew_so_does_the_story_and_old_words_are_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = [change("MODIFIED", raw(version=20, since="2026-11-24T13:00:09Z"))]
    ops, _ = played([[raw()], [raw()]], [[], again], [BOOT, BOOT + 3600], monkeypatch)
    later = kinds(ops)[kinds(ops).index("watch.gap") + 1 :]
    assert later[:4] == ["created", "scheduled", "started", "ready"]


def test_a_watch_that_expired_lists_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expired = [{"type": "ERROR", "object": {"message": "too old resource version"}}]
    ops, script = played([[raw()], [raw()]], [expired], [BOOT], monkeypatch)
    assert not script.lists, "listed again"
    assert kinds(ops).count("ready") == 1


def test_only_words_on_weights_pass() -> None:
    ops: list[Op] = []
    take = only_weights(ops.append)
    for kind in ("replica.ready", "replica.weights", "watch.gap"):
        take(Op(source="observer", process="p", kind=kind, t_intended=1, outcome="ok"))
    assert kinds(ops) == ["weights"]


MACHINE = Machine("amber-n1", "box", 8, 1)


class Nodes:
    """One node and its lease."""

    def __init__(self, renewed: str = "2026-11-24T12:00:09.000001Z") -> None:
        self.node: dict[str, Any] = {
            "metadata": {"name": "box", "labels": {}},
            "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "capacity": {}, "allocatable": {}},
        }
        self.renewed = renewed
        self.patches: list[str] = []

    def get(self, path: str) -> Any:
        lease = {"metadata": {"name": "box"}, "spec": {"renewTime": self.renewed}}
        return {"items": [lease if path == LEASES else self.node]}

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        self.patches.append(path)
        if path.endswith("/status"):
            self.node["status"] |= body["status"]
        else:
            self.node["metadata"]["labels"] |= body["metadata"]["labels"]
            self.node["spec"]["taints"] = body["spec"]["taints"]
        return {}


def test_a_node_that_lost_its_gpus_gets_them_back_and_is_then_left_alone() -> None:
    nodes = Nodes()
    (first,) = reconcile(cast(Api, nodes), [MACHINE], {"box": BOOT})
    assert first.missing == ("labels", "taint", "gpus"), "what was missing is told"
    assert nodes.patches == ["/api/v1/nodes/box", "/api/v1/nodes/box/status"]
    (second,) = reconcile(cast(Api, nodes), [MACHINE], {"box": BOOT})
    assert (second.ready, second.gpus, second.missing) == (True, 8, ())
    assert len(nodes.patches) == 2
    nodes.node["status"] |= {"allocatable": {"nvidia.com/gpu": "0"}}
    (third,) = reconcile(cast(Api, nodes), [MACHINE], {"box": BOOT}, mend=False)
    assert (third.gpus, third.missing) == (0, ("gpus",))
    assert len(nodes.patches) == 2, "a look alone changes nothing"
    reconcile(cast(Api, nodes), [MACHINE], {"box": BOOT})
    assert nodes.patches[2:] == ["/api/v1/nodes/box/status"]


def test_a_node_is_ready_only_once_its_lease_was_renewed_in_this_life() -> None:
    stale = Nodes(renewed="2026-11-24T11:59:59.000001Z")
    (seen,) = reconcile(cast(Api, stale), [MACHINE], {"box": BOOT})
    assert not seen.ready
    (seen,) = reconcile(cast(Api, stale), [MACHINE], {"box": BOOT - 60})
    assert seen.ready
    (absent,) = reconcile(cast(Api, stale), [Machine("amber-n2", "other", 8, 1)], {})
    assert (absent.ready, absent.missing) == (False, ("node",))


def test_patches_are_what_a_full_node_has() -> None:
    nodes = Nodes()
    nodes.patch("/api/v1/nodes/box", node_patch(nodes.node, MACHINE))
    nodes.patch("/api/v1/nodes/box/status", gpu_status(MACHINE))
    (seen,) = reconcile(cast(Api, nodes), [MACHINE], {"box": BOOT})
    assert seen.missing == ()


def test_a_closed_port_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="takes no connection"):
        require_open("127.0.0.1", 1)


HALF = b"apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: LS0t"


@pytest.mark.parametrize("text", [b"", HALF, HALF[:31], HALF + b"\n    server: [", b"\xff\xfe", b"- just\n- a list\n"])
def test_a_kubeconfig_that_is_being_written_is_a_cluster_that_does_not_answer_yet(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "amber.kubeconfig"
    file.write_bytes(text)
    with pytest.raises(Unreachable, match=r"cluster amber: no kubeconfig .*amber\.kubeconfig"):
        Api(file, "127.0.0.1", "amber")
