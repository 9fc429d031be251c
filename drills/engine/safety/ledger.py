"""The ledger: an append-only record, beside the lock, of who did what to which cluster and when; and announcements.

One JSON object a line, on disk (fsync) before the thing is done. Read by people (`blackstart watch`, `jq`) and never
by the judge. The optional webhook tells others at start, injection, heal and end; it can never hold up a run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import requests

from drills.engine.safety.journal import append_line
from drills.engine.safety.owner import user
from history.errors import RecordingError, UsageError

WEBHOOK_TIMEOUT_S = 2.0
_CLOSE_S = 3.0

Post = Callable[[str, dict[str, Any]], None]
"""Sends one small JSON object to a URL; raises what went wrong."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. ``blast_radius``: the declared most; ``outcome``: ``begun``, ``ok``, a verdict, …"""

    operation: str = ""
    clusters: tuple[str, ...] = ()
    outcome: str = ""
    text: str = ""
    drill: str = ""
    run: str = ""
    environment: str = ""
    blast_radius: str = ""
    command_line: tuple[str, ...] = ()
    user: str = ""
    host: str = ""
    pid: int = 0
    when: str = ""


class Ledger:
    """Appends entries to ``STATE/ledger.jsonl``; ``about`` has what all entries of this process have in common."""

    def __init__(self, state: Path, about: Entry) -> None:
        self.path = state / "ledger.jsonl"
        self._about = replace(about, user=user(), host=socket.gethostname(), pid=os.getpid())

    def write(self, operation: str, outcome: str, *, clusters: tuple[str, ...] = (), text: str = "") -> Entry:
        """One entry, on disk when this returns; ``RecordingError`` when it is not."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = replace(self._about, operation=operation, outcome=outcome, clusters=clusters, text=text, when=when)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(
                f"cannot write the ledger {self.path}: {error.strerror}",
                hint="name another state directory with BLACKSTART_STATE=DIR",
            ) from error
        append_line(self.path, entry)
        return entry

    @contextlib.contextmanager
    def operation(self, name: str, *, clusters: tuple[str, ...] = (), text: str = "") -> Iterator[list[str]]:
        """An entry before the block and one after it: ``ok`` with the lines that it gave, or ``failed`` and why."""
        self.write(name, "begun", clusters=clusters, text=text)
        said: list[str] = []
        try:
            yield said
        except BaseException as error:
            with contextlib.suppress(RecordingError):
                self.write(name, "failed", clusters=clusters, text=f"{type(error).__name__}: {error}")
            raise
        self.write(name, "ok", clusters=clusters, text="; ".join(filter(None, (text, *said))))


def read_ledger(state: Path, last: int = 20) -> tuple[Entry, ...]:
    """The last entries, 0: all; damaged lines are skipped."""
    found = []
    try:
        lines = (state / "ledger.jsonl").read_bytes().splitlines()
    except OSError:
        return ()
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Entry))
        except (msgspec.MsgspecError, ValueError):
            continue
    return tuple(found[-last:])


class Webhook:
    """Posts announcements from a thread of its own, in order; what failed is told to ``failed`` and to nobody else."""

    def __init__(self, url: str, failed: Callable[[str], None], post: Post | None = None) -> None:
        self._url, self._failed, self._post = webhook_url(url), failed, post or _post
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def announce(self, entry: Entry) -> None:
        """Returns at once; without a URL nothing happens."""
        if not self._url:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
            self._thread.start()
        self._queue.put(entry)

    def close(self) -> None:
        """Waits at most a few seconds for what is still to be posted."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                self._failed(f"webhook {self._place}: not done in time; announcements were left out")
            self._thread = None

    @property
    def _place(self) -> str:
        return urlsplit(self._url).netloc.rpartition("@")[2]  # the rest of a webhook's URL is a secret

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                self._post(self._url, asdict(entry))
            except Exception as error:  # whatever a stranger's server does, the run goes on
                self._failed(f"webhook {self._place}: {entry.operation} not announced: {type(error).__name__}")


def webhook_url(url: str) -> str:
    """The URL if it is one that can be posted to; ``UsageError`` else."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        good = False
    if url and not good:
        raise UsageError(
            f"--webhook {url!r}: must be an http or https URL",
            hint="for example --webhook https://hooks.example.org/drills, or BLACKSTART_WEBHOOK",
        )
    return url


def _post(url: str, body: dict[str, Any]) -> None:
    with requests.post(url, json=body, timeout=WEBHOOK_TIMEOUT_S, allow_redirects=False, stream=True) as answer:
        answer.raise_for_status()
