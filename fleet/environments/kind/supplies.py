"""What a kind fleet is made of: kind itself, a node image, the serving image; found, or built where nothing is pulled.

Where the offline builder has been used (``make kind-images``), its results, made again when sources changed; else kind
on the PATH, the published node image (``PUBLISHED``, or what $BLACKSTART_NODE_IMAGE names), and
``blackstart/serving:local`` from the Dockerfile.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.environments.kind.containers import docker
from fleet.environments.kind.offline import docker as engine
from fleet.environments.kind.offline import images
from fleet.environments.kind.offline.paths import Image, Paths
from fleet.protocols import Say
from history.errors import FleetError

LOCAL_IMAGE: Final = "blackstart/serving:local"
DOCKERFILE: Final = "docker build -f fleet/environments/kind/Dockerfile -t blackstart/serving:local ."
OLDEST_KIND: Final = (0, 24)
PUBLISHED: Final = "kindest/node:v1.34.0"
NODE_IMAGE_VARIABLE: Final = "BLACKSTART_NODE_IMAGE"
LAST_ON_V1: Final = (1, 34)
"""The last Kubernetes whose kubelet starts on cgroup v1."""
V2: Final = Path("/sys/fs/cgroup/cgroup.controllers")
"""Is there on hosts with cgroup v2."""


@dataclass(frozen=True)
class Supplies:
    """``offline``: the serving image of the offline builder, which only nodes of its own node image take in parts."""

    kind: str
    node_image: str
    serving_image: str
    offline: Image | None


def find(say: Say) -> Supplies:
    """``FleetError`` with the command that supplies what is missing."""
    engine.check_engine()
    paths = Paths.of_this_machine()
    if paths.images:
        built = images.ensure(lambda line: say(line.strip()) if "to do" in line else None)
        supplies = Supplies(str(paths.kind), built["node"].name, built["serving"].name, built["serving"])
    else:
        kind = shutil.which("kind")
        if kind is None:
            hint = "install kind (https://kind.sigs.k8s.io), or build everything from packages: make kind-images"
            raise FleetError("kind is not on the PATH, and nothing was built by make kind-images", hint=hint)
        if not docker("images", "--quiet", LOCAL_IMAGE).strip():
            raise FleetError(f"the Docker engine has no image {LOCAL_IMAGE}", hint=DOCKERFILE)
        supplies = Supplies(kind, published_image(), LOCAL_IMAGE, None)
    check_kind(supplies.kind)
    check_node_image(supplies.node_image)
    return supplies


def of_a_fleet(kind: str, node_image: str, serving_image: str) -> Supplies:
    """What a fleet that is up was made with; nothing is built. ``FleetError`` when its serving image is gone."""
    built = {one.name: one for one in Paths.of_this_machine().images.values()}
    if serving_image not in (*built, LOCAL_IMAGE):
        raise FleetError(
            f"the fleet's serving image {serving_image} is no longer the one that was built last",
            hint="make the fleet anew: blackstart fleet down --env kind, then up",
        )
    return Supplies(kind, node_image, serving_image, built.get(serving_image))


def published_image() -> str:
    """The node image where nothing was built by the offline builder."""
    return os.environ.get(NODE_IMAGE_VARIABLE) or PUBLISHED


def check_node_image(image: str) -> None:
    """``FleetError`` when this host has cgroup v1 and the image's Kubernetes, by its tag, no longer starts there."""
    tag = re.search(r":v(\d+)\.(\d+)", image)
    if tag and not V2.exists() and (int(tag[1]), int(tag[2])) > LAST_ON_V1:
        last = ".".join(map(str, LAST_ON_V1))
        raise FleetError(
            f"node image {image} is too new for this host, which has cgroup v1: its last Kubernetes is {last}",
            hint=f"{NODE_IMAGE_VARIABLE}={PUBLISHED}, or unset it; or boot with cgroup v2",
        )


def check_kind(kind: str) -> str:
    """kind's version; ``FleetError`` when it does not run or is too old."""
    version = kind_version(kind)
    parts = version.removeprefix("v").split(".")
    wanted = ".".join(map(str, OLDEST_KIND))
    try:
        number = (int(parts[0]), int(parts[1]))
    except (ValueError, IndexError):
        raise FleetError(
            f"{kind} says no version: {version!r}", hint="install kind anew, or make kind-images"
        ) from None
    if number < OLDEST_KIND:
        raise FleetError(
            f"{kind} is version {version}; at least {wanted} is needed", hint="update kind, or make kind-images"
        )
    return version


def kind_version(kind: str) -> str:
    """What it says of itself, "" when it does not run."""
    try:
        done = subprocess.run([kind, "version", "--quiet"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def hand_over(supplies: Supplies, containers: tuple[str, ...], kind_name: str) -> None:
    """The serving image into every node of a cluster that has not got it."""
    from fleet.environments.kind.containers import at_once

    if supplies.offline is not None:
        image = supplies.offline
        at_once(lambda name: engine.hand_to(name, image), containers)
        return
    command = [supplies.kind, "load", "docker-image", supplies.serving_image, "--name", kind_name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise FleetError(f"kind could not load the serving image: {done.stderr.strip()}", hint=DOCKERFILE)


def kubectl() -> str:
    """Version and path of kubectl, "" where there is none; nothing here needs it."""
    built = Paths.of_this_machine().kubectl
    path = str(built) if built.exists() else shutil.which("kubectl")
    if path is None:
        return ""
    try:
        done = subprocess.run([path, "version", "--client"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version = re.search(r"Client Version: *(\S+)", done.stdout)
    return f"{version[1]} ({path})" if version else ""
