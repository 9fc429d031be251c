"""What a local cluster's API says of Kubernetes versions: which kinds it serves, and that there is no way back.

Stands in for the part of Kubernetes that broke the restore of June 2022: from 1.22 on, an Ingress is served only as
``networking.k8s.io/v1`` (Kubernetes' deprecation guide), and a managed control plane is never downgraded.

    GET /version -> {"version"}     GET /apis -> {"served": ["networking.k8s.io/v1/Ingress", …]}
    POST /upgrade?to=1.22           409 for an older version than the present one
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

FIRST_VERSION: Final = "1.21"
_ALWAYS: Final = ("v1/Service", "v1/Pod", "apps/v1/Deployment", "networking.k8s.io/v1/Ingress")
_UNTIL_1_21: Final = ("extensions/v1beta1/Ingress", "networking.k8s.io/v1beta1/Ingress")


def number(version: str) -> tuple[int, ...]:
    """ "1.21" -> (1, 21); ``ValueError`` for what is no version."""
    return tuple(int(part) for part in version.split("."))


def served(version: str) -> tuple[str, ...]:
    """The kinds, as ``apiVersion/kind``, that a cluster of this version serves."""
    return _ALWAYS + (_UNTIL_1_21 if number(version) < (1, 22) else ())


class VersionApi:
    """The handlers; ``version`` is the cluster's own."""

    def __init__(self, version: str) -> None:
        self.version = version

    def routes(self) -> list[web.RouteDef]:
        """For the control plane's application."""
        return [
            web.get("/version", self._version),
            web.get("/apis", self._apis),
            web.post("/upgrade", self._upgrade),
        ]

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _apis(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version, "served": served(self.version)})

    async def _upgrade(self, request: web.Request) -> web.Response:
        wanted = request.query.get("to", "")
        try:
            older = number(wanted) < number(self.version)
        except ValueError:
            return web.json_response({"error": f"to={wanted!r} is no version"}, status=400)
        if older:
            error = f"the cluster is {self.version}; a control plane cannot be downgraded to {wanted}"
            return web.json_response({"error": error}, status=409)
        self.version = wanted
        return web.json_response({"version": wanted})
