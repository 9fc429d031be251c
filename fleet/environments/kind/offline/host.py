"""What this host must have before a build or an engine can begin, and how it gets it.

``images`` and ``engine`` call this. Installs packages of the distribution, and only as root and only what is missing.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline import gobuild
from fleet.environments.kind.offline.archive import MACHINES
from fleet.environments.kind.offline.recipe import Step, free_gib
from fleet.environments.kind.offline.versions import Versions
from history.errors import FleetError

NEEDS_GIB: Final = 12.0
"""Space for a cold build: Go's caches 5, the tree and the images 4, the rest while it works."""
BUILD_TOOLS: Final = ("debootstrap", "chroot", "unshare", "tar")
APT: Final = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120")


def check_host(versions: Versions, cache: Path, todo: Sequence[Step], say: Callable[[str], None]) -> None:
    """``FleetError`` when this host cannot do these steps; installs the tools that are missing."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in MACHINES:
        raise FleetError(
            f"this is {system} on {machine}; the builder makes Linux images for {', '.join(MACHINES)}",
            hint="run it on such a host and copy the archives, or use kindest/node where images can be pulled",
        )
    if os.geteuid() != 0:
        raise FleetError(
            "not root, and installing a Debian tree into a folder needs it",
            hint="run `sudo --preserve-env make kind-images`; with BLACKSTART_CACHE set, it says where results go",
        )
    if any(step.name in versions.modules or step.name in ("pause", "kind-files") for step in todo):
        gobuild.check_go(versions.go)
    check_space(cache, free_gib(cache), todo)
    install(versions, BUILD_TOOLS, say)


def check_space(cache: Path, free: float, todo: Sequence[Step]) -> None:
    """``FleetError`` when one of the large steps is still to do and the cache's file system is nearly full."""
    if free < NEEDS_GIB and any(step.name in ("kubernetes", "debian") for step in todo):
        raise FleetError(
            f"{free:.1f} GiB are free for {cache}; a cold build needs {NEEDS_GIB:.0f}",
            hint="make room, or set BLACKSTART_CACHE (and GOCACHE, GOMODCACHE) to a larger file system",
        )


def install(versions: Versions, commands: Sequence[str], say: Callable[[str], None]) -> None:
    """Install the packages of the distribution that have these commands, where a command is missing. As root."""
    packages = sorted({versions.host.get(command, command) for command in commands if not shutil.which(command)})
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise FleetError(
            f"missing: {', '.join(packages)}, and this host has no apt-get to install them with",
            hint="install them with this host's own package manager, then run the same command again",
        )
    say(f"   installing {', '.join(packages)} with apt-get")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run([*APT, *words], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["no reason given"]
        raise FleetError(
            f"apt-get could not install {', '.join(packages)}: {told[-1]}",
            hint=f"run `apt-get update && apt-get install {' '.join(packages)}` by hand and read what it says",
        )
