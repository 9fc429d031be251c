"""``findings``: what this machine has of what each environment needs. Asks the system, changes nothing.

Called by ``blackstart doctor``. Each look is a function of what was seen, so that tests need no Docker.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from fleet import prometheus
from fleet.environments.kind import supplies
from fleet.environments.kind.offline import docker as engine
from fleet.environments.kind.offline.paths import Paths
from history.errors import FleetError

INOTIFY_INSTANCES: Final = 512
KIND_MEMORY_GIB: Final = 6.0
LOCAL_MEMORY_GIB: Final = 1.0
INOTIFY: Final = Path("/proc/sys/fs/inotify/max_user_instances")


@dataclass(frozen=True)
class Finding:
    """One thing: is it as needed, what was seen, and what mends it. ``needed`` False: runs go on without."""

    environment: str
    what: str
    ok: bool
    seen: str
    mend: str
    needed: bool = True


def findings() -> tuple[Finding, ...]:
    """Everything, environment by environment."""
    return (*_local(), *_kind())


def _local() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("local", "Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")
    yield memory("local", LOCAL_MEMORY_GIB)
    binary = prometheus.find_binary()
    yield Finding("local", "Prometheus", bool(binary), binary or "not found", prometheus.ABSENT, needed=False)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    mend = "as root: apt-get install chromium (only `make test` needs it)"
    yield Finding("local", "Chromium", bool(chromium), chromium or "not found", mend, needed=False)


def _kind() -> Iterator[Finding]:
    version, why = engine.ask()
    yield docker(version, why)
    paths = Paths.of_this_machine()
    built = paths.kind if paths.images else None
    kind = str(built) if built else shutil.which("kind")
    yield kind_program(kind, supplies.check_kind)
    kubectl = supplies.kubectl()
    hint = "make kind-images, or install kubectl (only people need it)"
    yield Finding("kind", "kubectl", bool(kubectl), kubectl or "none that runs", hint, needed=False)
    if built:
        lost = [one.name for one in paths.images.values() if not one.archive.exists()]
        seen = f"not in the cache: {', '.join(lost)}" if lost else ", ".join(one.name for one in paths.images.values())
        yield Finding("kind", "images", not lost, seen, "make kind-images")
    else:
        there = bool(version) and bool(engine.docker("images", "--quiet", supplies.LOCAL_IMAGE).stdout.strip())
        mend = f"{supplies.DOCKERFILE}; where nothing can be pulled: make kind-images"
        yield Finding("kind", "images", there, supplies.LOCAL_IMAGE if there else "no serving image", mend)
    yield cgroups(paths.images["node"].name if built else supplies.published_image())
    instances = int(INOTIFY.read_text()) if INOTIFY.exists() else INOTIFY_INSTANCES
    yield inotify(instances)
    yield memory("kind", KIND_MEMORY_GIB)
    binary = prometheus.find_binary()
    yield Finding("kind", "Prometheus", bool(binary), binary or "not found", prometheus.ABSENT, needed=False)


def docker(version: str, why: str) -> Finding:
    """``why``: what the client said when no engine answered."""
    return Finding("kind", "Docker", bool(version), f"engine {version}" if version else why, engine.next_step(why))


def kind_program(path: str | None, check: Callable[[str], str]) -> Finding:
    """kind is there, runs, and is not too old."""
    if path is None:
        return Finding("kind", "kind", False, "not found", "install kind, or build it from packages: make kind-images")
    try:
        return Finding("kind", "kind", True, f"{check(path)} ({path})", "")
    except FleetError as error:
        return Finding("kind", "kind", False, error.message, error.hint)


def cgroups(node_image: str) -> Finding:
    """Kubernetes 1.35 and newer want cgroup v2."""
    seen = f"cgroup {'v2' if supplies.V2.exists() else 'v1'}, node image {node_image}"
    try:
        supplies.check_node_image(node_image)
    except FleetError as error:
        return Finding("kind", "cgroups", False, seen, error.hint)
    return Finding("kind", "cgroups", True, seen, "")


def inotify(instances: int) -> Finding:
    """Several kubelets watch many files."""
    mend = f"as root: sysctl fs.inotify.max_user_instances={INOTIFY_INSTANCES} (make docker-engine does)"
    enough = instances >= INOTIFY_INSTANCES
    return Finding("kind", "inotify", enough, f"{instances} instances of at least {INOTIFY_INSTANCES}", mend)


def memory(environment: str, wanted_gib: float) -> Finding:
    """What could be used now."""
    free = psutil.virtual_memory().available / 2**30
    mend = "end something, or use a smaller fleet: --small" if environment == "kind" else "end something"
    return Finding(
        environment, "memory", free >= wanted_gib, f"{free:.1f} GiB free, at least {wanted_gib:g} wanted", mend
    )
