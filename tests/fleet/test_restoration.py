"""Checks of a restore: manifests against what a cluster serves, no downgrade, and stages that make sense."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from drills.engine.nouns import Restore, Stage
from fleet.environments.local.versions import VersionApi, served
from fleet.manifests import kinds_of, not_served

OLD = "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata:\n  name: api\n"
NEW = "# two\napiVersion: networking.k8s.io/v1\nkind: Ingress\n---\napiVersion: v1\nkind: Service\nspec:\n  kind: no\n"


def test_an_old_ingress_is_served_until_1_21_only() -> None:
    assert kinds_of(NEW) == ("networking.k8s.io/v1/Ingress", "v1/Service")
    assert not_served(OLD, served("1.21")) == ()
    assert not_served(OLD, served("1.22")) == ("extensions/v1beta1/Ingress",)
    assert not_served(NEW, served("1.22")) == ()
    assert not_served("kind: Ingress\n", served("1.22")) == ("?/Ingress",)


def test_a_control_plane_is_upgraded_and_never_downgraded() -> None:
    async def talk() -> list[tuple[int, Any]]:
        app = web.Application()
        app.add_routes(VersionApi("1.21").routes())
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        said = []
        async with aiohttp.ClientSession() as session:
            for version in ("1.22", "1.21", "soon"):
                async with session.post(f"{url}/upgrade?to={version}") as answer:
                    said.append((answer.status, await answer.json()))
            async with session.get(f"{url}/apis") as answer:
                said.append((answer.status, (await answer.json())["version"]))
        await runner.cleanup()
        return said

    upgraded, downgraded, nonsense, now = asyncio.run(talk())
    assert upgraded[0] == 200
    assert downgraded[0] == 409
    assert "cannot be downgraded to 1.21" in downgraded[1]["error"]
    assert nonsense[0] == 400
    assert now == (200, "1.22")


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((Stage("wait", 1.0),), "one of its stages must be 'rebuild'"),
        ((Stage("back", 1.0, "rebuild"), Stage("up", 1.0, "upgrade")), "needs a value"),
        ((Stage("back", -1.0, "rebuild"),), "must not be negative"),
    ],
)
def test_stages_that_cannot_be_are_said(stages: tuple[Stage, ...], said: str) -> None:
    assert any(said in str(problem) for problem in Restore("cobalt", stages).problems())


def test_a_restore_lasts_as_long_as_its_stages() -> None:
    restore = Restore("cobalt", (Stage("vpn", 3.0), Stage("back", 2.0, "rebuild")))
    assert restore.problems() == []
    assert restore.longest_s() == 5.0
    assert "2 stages" in restore.describe()
