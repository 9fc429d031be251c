"""The host process of a kind fleet: everything that stands outside every cluster, forked from one parent.

    python -m fleet.environments.kind.host FOLDER

Weight stores, gateway, allocator, one adapter a cluster, Prometheus; started by ``lifecycle``, ended by SIGTERM. Its
children die with it. It restarts nothing: what died is in ``exits.json`` and ``died`` of the fleet says so.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet.environments.local.ask import ask
from fleet.environments.local.processes import fork

SERVICES: Final = "services.pickle"
EXITS: Final = "exits.json"
PRELOAD: Final = (
    "aiohttp.web",
    "prometheus_client",
    "fleet.serving.allocator",
    "fleet.serving.gateway",
    "fleet.serving.store",
    "fleet.environments.kind.adapter",
)
ENDS_S: Final = 2.0
LOOK_S: Final = 0.2


@dataclass(frozen=True)
class Service:
    """``module.run(config)``, or with ``argv`` a program; started once every URL in ``after`` answers 200."""

    name: str
    module: str
    config: Any
    log: Path
    argv: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def write_services(folder: Path, services: tuple[Service, ...]) -> None:
    """What the host process will start; readable by its owner only, since configs hold the fleet's token."""
    file = folder / SERVICES
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(pickle.dumps(services))


def died(folder: Path) -> tuple[str, ...]:
    """Services that ended by themselves."""
    try:
        return tuple(json.loads((folder / EXITS).read_text()))
    except (OSError, ValueError):
        return ()


def main(folder: Path) -> None:
    """Starts the services, waits for SIGTERM, ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    for name in PRELOAD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    services: tuple[Service, ...] = pickle.loads((folder / SERVICES).read_bytes())
    children: dict[int, str] = {}
    waiting, ended = list(services), list[str]()
    while not stop:
        for service in [one for one in waiting if all(ask(url).ok for url in one.after)]:
            waiting.remove(service)
            children[fork(entry(service), log=service.log)] = service.name
        time.sleep(LOOK_S)
        while children and (pid := _reaped()):
            ended.append(children.pop(pid, "?"))
            (folder / EXITS).write_text(json.dumps(ended))
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + ENDS_S
    while children and time.monotonic() < deadline:
        if pid := _reaped():
            children.pop(pid, None)
        else:
            time.sleep(0.01)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def entry(service: Service) -> Callable[[], None]:
    """What runs in the child. Services of ours stand for machines of their own: where root may, they take the real-time
    class, so that a cluster that boots on this host's cores is not what users feel of its return."""
    if service.argv:
        return lambda: os.execv(service.argv[0], service.argv)
    run = importlib.import_module(service.module).run

    def first() -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        run(service.config)

    return first


def _reaped() -> int:
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


if __name__ == "__main__":
    from fleet.environments.kind import host as importable  # pickles name its classes by the importable module

    importable.main(Path(sys.argv[1]))
