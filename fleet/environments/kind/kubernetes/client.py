"""``Api``: bounded calls to one cluster's API server, over the published Kubernetes client.

Made from a kubeconfig that kind wrote; asks at the address of the control plane's container (not at the port that kind
publishes on the host, which would say "refused" whatever happened inside). It never retries and never waits long.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from fleet.environments.kind.topology import API_PORT
from history.errors import FleetError

CONNECT_S: Final = 1.5
"""With the handshake; a node whose cores are all busy takes half a second for it."""
READ_S: Final = 2.0
MERGE: Final = "application/merge-patch+json"
ENDING: Final = "object is being deleted"
"""So begins a 409 where the one in the way only waits for its finalizers (apiserver, ``Store.Create``)."""
Json = dict[str, Any]


class Unreachable(FleetError):
    """The API server does not answer."""


class Refused(FleetError):
    """The API server answered no; ``status`` is its code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, hint="read the API server's answer above")
        self.status = status


class Api:
    """One cluster's API. Usable from any thread."""

    def __init__(self, kubeconfig: Path, address: str, name: str) -> None:
        self._name = name
        settings = client.Configuration()
        try:
            config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        except Exception as error:  # kind may be writing it: half of one is no YAML, or YAML of something else
            raise Unreachable(f"cluster {name}: no kubeconfig {kubeconfig}: {error}", hint="is it created?") from error
        self._host = f"https://{address}:{API_PORT}"
        self._pool = client.ApiClient(settings).rest_client.pool_manager

    def get(self, path: str, read_s: float = READ_S, **query: object) -> Json:
        """A resource or a list."""
        return self.call("GET", path, query=query, read_s=read_s)

    def create(self, path: str, body: Json) -> bool:
        """False when it was there already. One of that name that is ending is none: ``Refused``, until it has gone."""
        try:
            self.call("POST", path, body)
        except Refused as error:
            if error.status == 409 and ENDING not in error.message:
                return False
            raise
        return True

    def delete(self, path: str, **query: object) -> bool:
        """False when it was not there."""
        try:
            self.call("DELETE", path, query=query)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    def patch(self, path: str, body: Json) -> Json:
        """A JSON merge patch."""
        return self.call("PATCH", path, body)

    def ready(self, read_s: float = READ_S) -> bool:
        """Does ``/readyz`` say ok?"""
        try:
            self.call("GET", "/readyz", read_s=read_s)
        except FleetError:
            return False
        return True

    def call(
        self, method: str, path: str, body: Json | None = None, *, query: Json | None = None, read_s: float = READ_S
    ) -> Json:
        """One request. ``Unreachable`` without an answer, ``Refused`` with one that is no success."""
        response = self._send(method, path, body, query or {}, (CONNECT_S, read_s))
        try:
            data = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"cluster {self._name}: its API fell silent: {error}", hint="is it up?") from error
        finally:
            response.release_conn()
        try:
            decoded = json.loads(data)
        except ValueError:
            return {}
        return decoded if isinstance(decoded, dict) else {}

    @contextmanager
    def stream(self, path: str, silence_s: float, query: Json) -> Iterator[Iterator[Json]]:
        """The events of a watch; iterating raises ``TimeoutError`` after ``silence_s`` without one."""
        response = self._send("GET", path, None, {**query, "watch": "true"}, (CONNECT_S, silence_s))
        try:
            yield self._events(response)
        finally:
            response.close()

    def _events(self, response: Any) -> Iterator[Json]:
        buffer = b""
        try:
            while chunk := response.read1():
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise TimeoutError from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Unreachable(f"cluster {self._name}: the watch broke: {error!r}", hint="") from error

    def _send(self, method: str, path: str, body: Json | None, query: Json, limits: tuple[float, float]) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = MERGE if method == "PATCH" else "application/json"
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=urllib3.Timeout(*limits),
                retries=False,
                preload_content=False,
            )
            if 200 <= response.status < 300:
                return response
            said = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"cluster {self._name}: its API does not answer: {error}", hint="is it up?") from error
        raise Refused(f"cluster {self._name}: {method} {path}: {_said(said)}", response.status)


def require_open(address: str, port: int) -> None:
    """``Unreachable`` when nobody takes a connection there: cheaper to find out than by asking."""
    try:
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise Unreachable(f"{address}:{port} takes no connection: {error}", hint="is it up?") from error


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (TypeError, ValueError, KeyError):
        return body[:200].decode(errors="replace")
