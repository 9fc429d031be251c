"""The scheduler: GPUs are counted, and whoever waits is told why in numbers."""

from __future__ import annotations

from fleet.environments.local.scheduler import NodeState, ReplicaState, Scheduler


def scheduler(*gpus: int) -> Scheduler:
    return Scheduler(NodeState(f"n{i}", count, ready=True) for i, count in enumerate(gpus, 1))


def want(plan: Scheduler, name: str, gpus: int, priority: int = 0, wish: str = "") -> ReplicaState:
    replica = ReplicaState(name, name, gpus, priority, wish)
    plan.replicas[name] = replica
    return replica


def test_a_replica_goes_where_it_leaves_least() -> None:
    plan = scheduler(8, 4)
    replica = want(plan, "a", 4)
    bound, waiting = plan.bind_pending()
    assert (bound, waiting) == ([replica], [])
    assert (replica.node, replica.phase) == ("n2", "Scheduled")
    assert (plan.free("n1"), plan.free("n2"), plan.allocated("n2")) == (8, 0, 4)


def test_a_wish_is_granted_where_it_fits_and_ignored_where_not() -> None:
    plan = scheduler(8, 4)
    first, second = want(plan, "a", 4, wish="n1"), want(plan, "b", 5, wish="n2")
    plan.replicas["b"].phase = "Failed"
    plan.bind_pending()
    assert first.node == "n1"
    second.phase = "Pending"
    plan.bind_pending()
    assert second.node == ""
    assert second.reason == "needs 5 GPU(s) on one node; free: n1 4, n2 4"


def test_pending_says_why_once_and_is_bound_when_gpus_are_released() -> None:
    plan = scheduler(4)
    first, second = want(plan, "a", 3), want(plan, "b", 2)
    plan.bind_pending()
    assert second.phase == "Pending"
    assert second.reason == "needs 2 GPU(s) on one node; free: n1 1"
    assert plan.bind_pending() == ([], [])
    plan.release(first)
    del plan.replicas["a"]
    assert plan.bind_pending() == ([second], [])
    assert second.reason == ""


def test_the_important_are_bound_first() -> None:
    plan = scheduler(2)
    low, high = want(plan, "low", 2, priority=1), want(plan, "high", 2, priority=5)
    plan.bind_pending()
    assert (low.phase, high.phase) == ("Pending", "Scheduled")


def test_a_node_that_is_not_ready_gives_nothing() -> None:
    plan = scheduler(4, 4)
    plan.nodes["n1"].ready = False
    first, second = want(plan, "a", 4), want(plan, "b", 1)
    plan.bind_pending()
    assert first.node == "n2"
    assert second.reason == "needs 1 GPU(s) on one node; free: n2 0; not ready: n1"
    assert plan.count("Pending") == plan.count("Scheduled") == 1


def test_who_is_leaving_keeps_its_gpus_until_released() -> None:
    plan = scheduler(2)
    first = want(plan, "a", 2)
    plan.bind_pending()
    first.leaving = True
    want(plan, "b", 1)
    assert plan.bind_pending()[0] == []
    assert plan.free("n1") == 0
