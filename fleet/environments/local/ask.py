"""Asking a service over a new connection with a short time-out, and saying in words what came back.

Used by ``LocalFleet`` and ``LocalCluster`` for readiness and for the independent signals of a fault. A time-out is an
answer here, not an error.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from fleet.protocols import Reachability
from fleet.serving.process import token_headers

ASK_TIMEOUT_S = 0.5

_UNVERIFIED = ssl._create_unverified_context()

How = Literal["answered", "refused", "unreachable", "connect-timeout", "no-answer", "reset"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer:
    """What one question gave. ``status``: the HTTP code, 0 without one; ``body``: decoded JSON, or None."""

    url: str
    how: How
    status: int = 0
    body: Any = None

    @property
    def ok(self) -> bool:
        """Answered with 200."""
        return self.status == 200

    def __str__(self) -> str:
        what = {"answered": f"HTTP {self.status}", "no-answer": "connects, then no answer"}.get(self.how, self.how)
        return f"{self.url}: {what}"


def ask(
    url: str, *, timeout_s: float = ASK_TIMEOUT_S, method: str = "GET", read_body: bool = True, token: str = ""
) -> Answer:
    """One request on a new connection; ``timeout_s`` bounds the connect and again each read. ``token``: the run's own,
    for requests that change something."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":  # an API server by its address: whether it answers, not who it is
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=timeout_s, context=_UNVERIFIED
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        try:
            connection.connect()
        except TimeoutError as error:
            return Answer(url, "no-answer" if "handshake" in str(error) else "connect-timeout")
        except ConnectionRefusedError:
            return Answer(url, "refused")
        except OSError:
            return Answer(url, "unreachable")
        try:
            connection.request(
                method, f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", headers=token_headers(token)
            )
            response = connection.getresponse()
            body = _json(response.read()) if read_body else None
            return Answer(url, "answered", response.status, body)
        except TimeoutError:
            return Answer(url, "no-answer")
        except (OSError, http.client.HTTPException):
            return Answer(url, "reset")
    finally:
        connection.close()


def at_once(work: Callable[[str], _T], urls: Sequence[str]) -> list[_T]:
    """``work`` on every URL in parallel: slow ones cost one time-out, not one each."""
    if not urls:
        return []
    with ThreadPoolExecutor(max_workers=min(16, len(urls))) as pool:
        return list(pool.map(work, urls))


def reachability(api_url: str, data_urls: Mapping[str, str]) -> Reachability:
    """Asks a cluster's API and every node's agent (name -> URL), all at once, for at most about 1 s."""
    urls = {"": api_url, **data_urls}
    answers = dict(zip(urls, at_once(ask, list(urls.values())), strict=True))
    silent = [str(answer) for answer in answers.values() if not answer.ok]
    return Reachability(
        api=answers[""].ok,
        nodes={name: answer.ok for name, answer in answers.items() if name},
        detail="; ".join(silent) or "all answer",
    )


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
