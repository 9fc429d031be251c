"""Whoever has not this run's token changes nothing: every route of every service that is not a GET, by its router."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fleet.environments.local import control
from fleet.environments.local.control import ControlConfig, NodeConfig
from fleet.environments.local.zygote import Start
from fleet.serving import agent, allocator, gateway, server, store
from fleet.serving.config import AgentConfig, AllocatorConfig, GatewayConfig, ServerConfig, StoreConfig
from fleet.serving.process import TOKEN_HEADER

HOST = "127.0.0.1"
PUBLIC = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
"""What users may POST, of gateway and model server; whatever else changes anything belongs to the operators."""


def store_app(work: Path, token: str) -> web.Application:
    return store.build_app(StoreConfig("s", HOST, 0, work, 0.0, token=token))


def agent_app(work: Path, token: str) -> web.Application:
    return agent.build_app(AgentConfig("amber", "n1", HOST, 0, work / "cache", 1000, ("http://h:9",), token=token))


def gateway_app(work: Path, token: str) -> web.Application:
    return gateway.build(GatewayConfig(HOST, 0, (), token=token))[0]


def allocator_app(work: Path, token: str) -> web.Application:
    return allocator.build(AllocatorConfig(HOST, 0, (), (), token=token))[0]


def control_app(work: Path, token: str) -> web.Application:
    return control.build(ControlConfig("amber", HOST, 0, (), (), work, token), {}, logging.Logger("control"))


APPS: dict[str, Callable[[Path, str], web.Application]] = {
    "store": store_app,
    "agent": agent_app,
    "gateway": gateway_app,
    "allocator": allocator_app,
    "control": control_app,
}


def changing(app: web.Application) -> list[tuple[str, str]]:
    """(method, path) of every route that is not a GET, with its variables filled in."""
    found = []
    for route in app.router.routes():
        info = route.resource.get_info() if route.resource is not None else {}
        path = info.get("path") or info["formatter"].format(name="m-1", sha256="0", model="m")
        if route.method not in ("GET", "HEAD"):
            found.append((route.method, path))
    return found


@pytest.mark.parametrize("name", APPS)
def test_every_changing_route_needs_the_token(name: str, lab: Any, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab() as it:
            it.session.headers.clear()
            for token in ("the-token", ""):  # a service without a token is closed to everybody
                app = APPS[name](tmp_path, token)
                url = await it.url(app)
                for method, path in changing(app):
                    for headers in ({}, {TOKEN_HEADER: ""}, {TOKEN_HEADER: "the-tokem"}, {TOKEN_HEADER: "the-token2"}):
                        async with it.session.request(method, url + path, headers=headers, data=b"{}") as response:
                            refused = response.status == 403
                            assert refused != (path in PUBLIC), (method, path, response.status)
                            assert refused == (TOKEN_HEADER in await response.text())
                async with it.session.get(f"{url}/metrics") as response:
                    assert response.status == 200
                async with it.session.post(f"{url}/nowhere") as response:
                    assert response.status == 404

    asyncio.run(go())


def test_a_model_server_takes_nothing_but_what_users_may_post(lab: Any, tmp_path: Path) -> None:
    pool = replace(_model("m"), fine_tunes=1)
    config = ServerConfig("amber", "n1", "m-1", pool, HOST, 0, "http://h:9", token="the-token")

    async def go() -> None:
        async with lab() as it:
            model = server.ModelServer(config, logging.Logger("server"))
            assert {path for path, (method, _) in model.routes.items() if method != "GET"} == PUBLIC
            url = await it.serving(model)
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                for path in (*PUBLIC, "/v1/models", "/metrics", "/healthz", "/nowhere", "/"):
                    async with it.session.request(method, url + path, data=b"{}") as response:
                        wanted = 404 if path in ("/nowhere", "/") else 405
                        assert response.status == (400 if method == "POST" and path in PUBLIC else wanted), path

    asyncio.run(go())


def test_the_services_have_the_routes_that_this_file_is_about(tmp_path: Path) -> None:
    routes = {name: set(changing(make(tmp_path, "t"))) for name, make in APPS.items()}
    assert {("POST", "/fetch"), ("POST", "/release")} <= routes["agent"]
    assert ("POST", "/drain") in routes["gateway"]
    assert ("POST", "/decide") in routes["allocator"]
    assert {("PUT", "/replicas/m-1"), ("DELETE", "/replicas/m-1"), ("POST", "/replicas/m-1/state")} <= routes["control"]


def test_a_refused_request_changes_nothing(lab: Any, tmp_path: Path) -> None:
    async def go() -> None:
        async with lab() as it:
            it.session.headers.clear()
            models = (_model("m"),)
            app = control.build(ControlConfig("amber", HOST, 0, (), models, tmp_path, "t"), {}, logging.Logger("c"))
            url = await it.url(app)

            async def put(**headers: str) -> int:
                async with it.session.put(f"{url}/replicas/m-1", json={"model": "m"}, headers=headers) as response:
                    return int(response.status)

            assert await put() == 403
            assert await it.get_json(f"{url}/replicas") == {"replicas": []}
            assert await put(**{TOKEN_HEADER: "t"}) == 200
            async with it.session.delete(f"{url}/replicas/m-1") as response:
                assert response.status == 403
            assert [row["name"] for row in (await it.get_json(f"{url}/replicas"))["replicas"]] == ["m-1"]

    asyncio.run(go())


def test_no_repr_has_the_token(tmp_path: Path) -> None:
    node = AgentConfig("amber", "n1", HOST, 0, tmp_path, 1, (), token="secret")
    configs = (
        ControlConfig("amber", HOST, 0, (NodeConfig("n1", HOST, 1, node),), (), tmp_path, "secret"),
        GatewayConfig(HOST, 0, (), token="secret"),
        AllocatorConfig(HOST, 0, (), (), token="secret"),
        StoreConfig("s", HOST, 0, tmp_path, 0.0, token="secret"),
    )
    assert "secret" not in repr([Start("x", "m", "run", (config,), tmp_path) for config in configs])


def _model(name: str) -> Any:
    from fleet.spec import ModelSpec

    return ModelSpec(name, "chat", "base", 1)
