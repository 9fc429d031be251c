"""The routing table: who may take a request, and who takes the next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.serving.routing import Replica, Routes
from fleet.spec import ModelSpec


def seen(name: str, model: str = "m", url: str = "", cluster: str = "amber") -> Replica:
    return Replica(cluster, name, model, "n1", url or f"http://{name}")


def table(*names: str, eject_after: int = 2) -> tuple[Routes, list[Replica]]:
    routes = Routes(eject_after=eject_after)
    return routes, [routes.ready(seen(name)) for name in names]


def test_the_least_loaded_is_chosen_and_equals_take_turns() -> None:
    routes, (a, b, c) = table("a", "b", "c")
    a.in_flight = 1
    assert {routes.choose("m") for _ in range(4)} == {b, c}
    b.in_flight = c.in_flight = 2
    assert routes.choose("m") is a
    assert routes.choose("m", exclude=[a]) in (b, c)


@given(st.integers(1, 8), st.integers(0, 60))
def test_equal_replicas_get_equal_shares(count: int, requests: int) -> None:
    routes, replicas = table(*"abcdefgh"[:count])
    for _ in range(requests):
        chosen = routes.choose("m")
        assert chosen is not None
        chosen.in_flight += 1
    assert max(r.in_flight for r in replicas) - min(r.in_flight for r in replicas) <= 1


def test_ejected_draining_and_removed_replicas_get_nothing() -> None:
    routes, (a, b, c) = table("a", "b", "c")
    routes.eject(a)
    b.draining = True
    routes.remove("amber", "c")
    assert routes.choose("m") is None
    assert not c.routable
    routes.succeeded(a)
    assert routes.choose("m") is a
    routes.succeeded(b)
    assert not b.routable, "a good health check does not end a drain"
    routes.ready(seen("b"))
    assert b.routable


def test_enough_failures_in_a_row_eject() -> None:
    routes, (a,) = table("a", eject_after=3)
    for _ in range(2):
        routes.failed(a)
    routes.succeeded(a)
    for _ in range(2):
        routes.failed(a)
    assert a.routable
    routes.failed(a)
    assert not a.routable


def test_a_listing_replaces_and_keeps_what_is_known() -> None:
    routes, (a, b) = table("a", "b")
    routes.eject(a)
    elsewhere = routes.ready(seen("a", cluster="jade"))
    routes.sync("amber", [seen("a"), seen("c")])
    assert routes.get("amber", "a") is a
    assert a.ejected
    assert routes.get("amber", "b") is None
    assert not b.routable
    assert routes.get("jade", "a") is elsewhere
    routes.sync("amber", [seen("a", url="http://moved")])
    moved = routes.get("amber", "a")
    assert moved is not None
    assert moved.url == "http://moved"
    assert moved.routable


def test_names_pools_and_fallbacks() -> None:
    models = (
        ModelSpec("m", "chat", "base", 1, fallback="other"),
        ModelSpec("pool", "chat", "fine-tuned", 1, fallback="m", fine_tunes=2),
    )
    routes = Routes(models, eject_after=1)
    assert routes.known("m")
    assert routes.known("pool:001")
    assert not routes.known("other")
    pool = routes.ready(seen("p", model="pool"))
    assert routes.choose("pool:002") is pool
    assert routes.choose("m") is None
    assert (routes.fallback("m"), routes.fallback("pool:002"), routes.fallback("other")) == ("other", "m", "")
    routes.remove("amber", "p")
    assert routes.known("pool"), "a model that was ever there stays known"
