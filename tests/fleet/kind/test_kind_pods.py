"""A pod as a replica: its phase by the API's words, and what lies between two looks."""

from __future__ import annotations

from typing import Any

from fleet.environments.kind.kubernetes.pods import Pod, epoch, events, pod_of
from fleet.environments.kind.kubernetes.view import Replicas, Row

NAMES = {"box": "amber-n1"}
BOOT = epoch("2026-11-24T12:00:00.5Z")


def raw(
    *,
    node: str = "box",
    running: str = "",
    ready: bool = False,
    waiting: str = "",
    deleted: bool = False,
    reason: str = "",
    uid: str = "u1",
) -> dict[str, Any]:
    state: dict[str, Any] = {"running": {"startedAt": running}} if running else {}
    state |= {"waiting": {"reason": waiting, "message": "back-off"}} if waiting else {}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    conditions += [{"type": "PodScheduled", "status": "False", "message": reason}] if reason else []
    return {
        "metadata": {
            "uid": uid,
            "labels": {"blackstart.dev/replica": "chat-1", "blackstart.dev/model": "chat"},
            "annotations": {"blackstart.dev/port": "20001", "blackstart.dev/hint": "amber-n1"},
            **({"deletionTimestamp": "2026-11-24T12:00:09Z"} if deleted else {}),
        },
        "spec": {
            "containers": [{"resources": {"limits": {"nvidia.com/gpu": "4"}}}],
            **({"nodeName": node} if node else {}),
        },
        "status": {
            "hostIP": "10.0.0.2" if node else "",
            "conditions": conditions,
            "containerStatuses": [{"state": state, "ready": ready}] if state else [],
        },
    }


def look(**said: Any) -> Pod:
    return pod_of(raw(**said), NAMES, {"box": BOOT})


def kinds(before: Pod | None, now: Pod) -> list[str]:
    return [kind for kind, _ in events(before, now)]


def test_a_life_step_by_step() -> None:
    pending = look(node="", reason="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")
    bound, started = look(), look(running="2026-11-24T12:00:05Z")
    ready = look(running="2026-11-24T12:00:05Z", ready=True)
    assert [p.phase for p in (pending, bound, started, ready)] == ["Pending", "Scheduled", "Started", "Ready"]
    assert kinds(None, pending) == ["replica.created", "replica.pending"]
    assert kinds(pending, pending) == []
    assert kinds(pending, bound) == ["replica.scheduled"]
    assert kinds(bound, started) == ["replica.started"]
    assert kinds(started, ready) == ["replica.ready"]
    assert kinds(ready, look(deleted=True)) == ["replica.gone"]
    assert (ready.node, ready.url, ready.gpus, ready.hint) == ("amber-n1", "http://10.0.0.2:20001", 4, "amber-n1")


def test_steps_that_fell_between_two_looks_are_not_lost() -> None:
    ready = look(running="2026-11-24T12:00:05Z", ready=True)
    assert kinds(None, ready) == ["replica.created", "replica.scheduled", "replica.started", "replica.ready"]
    (*_, (_, detail)) = events(None, ready)
    assert detail == {"url": "http://10.0.0.2:20001"}


def test_what_the_api_says_of_a_life_before_the_nodes_own_is_not_believed() -> None:
    stale = look(running="2026-11-24T11:50:00Z", ready=True)
    assert stale.phase == "Scheduled", "the node began at 12:00:00.5, the container 10 minutes before"
    same_second = look(running="2026-11-24T12:00:00Z", ready=True)
    assert same_second.phase == "Ready", "stamps are rounded down to whole seconds"


def test_a_container_that_cannot_start_or_falls_is_a_failure() -> None:
    ready = look(running="2026-11-24T12:00:05Z", ready=True)
    assert kinds(ready, look(running="2026-11-24T12:00:05Z")) == ["replica.failed"]
    broken = look(waiting="CrashLoopBackOff")
    assert (broken.phase, broken.reason) == ("Failed", "CrashLoopBackOff: back-off")
    assert kinds(look(), broken) == ["replica.failed"]
    assert kinds(broken, broken) == []


def test_stamps_of_kubernetes_and_docker() -> None:
    assert epoch("2026-11-24T12:00:00Z") == 1795521600.0
    assert abs(epoch("2026-11-24T12:00:00.123456789Z") - 1795521600.123456789) < 1e-6


def test_rows_wishes_and_held_gpus() -> None:
    view = Replicas("amber")
    view.wanted(Row("chat-1", "chat", 4, hint="amber-n1"))
    assert [row.phase for row in view.rows()] == ["Pending"], "listed before its pod is seen"
    assert view.held("amber-n1") == 4, "room that was asked for is not free"
    assert [e["kind"] for e in view.seen(look(), deleted=False)] == ["replica.created", "replica.scheduled"]
    assert view.held("amber-n1") == 4, "counted once"
    view.seen(look(running="2026-11-24T12:00:05Z"), deleted=False)
    view.told("chat-1", "Loading", "")
    assert [row.phase for row in view.rows()] == ["Loading"]
    view.seen(look(running="2026-11-24T12:00:05Z", ready=True), deleted=False)
    assert [row.phase for row in view.rows()] == ["Ready"], "ready is what Kubernetes says"


def test_a_deleted_replica_is_gone_once_and_holds_its_gpus_until_its_pod_has_ended() -> None:
    view = Replicas("amber")
    view.seen(look(running="2026-11-24T12:00:05Z", ready=True), deleted=False)
    event = view.leave("chat-1")
    assert event is not None
    assert event["kind"] == "replica.gone"
    assert view.rows() == []
    assert view.leave("chat-1") is None
    assert view.seen(look(deleted=True), deleted=False) == []
    assert view.held("amber-n1") == 4
    assert view.seen(look(deleted=True), deleted=True) == []
    assert view.held("amber-n1") == 0


def test_the_same_name_may_live_again_while_the_old_pod_ends() -> None:
    view = Replicas("amber")
    view.seen(look(running="2026-11-24T12:00:05Z", ready=True), deleted=False)
    view.leave("chat-1")
    new = pod_of(raw(uid="u2"), NAMES, {"box": BOOT})
    assert [e["kind"] for e in view.seen(new, deleted=False)] == ["replica.created", "replica.scheduled"]
    assert [row.phase for row in view.rows()] == ["Scheduled"]
    assert view.seen(look(deleted=True), deleted=True) == []


def test_after_a_gap_the_story_begins_anew() -> None:
    view = Replicas("amber")
    view.seen(look(running="2026-11-24T12:00:05Z", ready=True), deleted=False)
    found = view.listed([look(running="2026-11-24T11:50:00Z", ready=True)])
    assert [e["kind"] for e in found] == ["replica.created", "replica.scheduled"]
    assert [row.phase for row in view.rows()] == ["Scheduled"]
