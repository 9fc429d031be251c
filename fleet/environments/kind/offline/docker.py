"""What the offline builder asks of a Docker engine: is one there, does it have an image, take this archive."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final

from fleet.environments.kind.offline.archive import KEY_LABEL
from fleet.environments.kind.offline.paths import Image
from history.errors import FleetError

ANSWERS_WITHIN_S: Final = 60.0
"""An engine that takes longer to say its version does not answer."""
START: Final = "start one: as root `make docker-engine`; or install and start Docker, and let this user reach it"
REACH: Final = "let this user reach Docker's socket (its group is usually `docker`): sudo usermod -aG docker $USER"


def docker(*words: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run the docker client; never raises for its exit code."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=timeout_s)


def ask() -> tuple[str, str]:
    """The version of the Docker engine that answers, and, when none does, the reason."""
    if not shutil.which("docker"):
        return "", "no docker on the PATH"
    try:
        asked = docker("version", "--format", "{{.Server.Version}}", timeout_s=ANSWERS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return "", f"nothing came within {ANSWERS_WITHIN_S:.0f} s"
    said = asked.stderr.strip().splitlines()
    return (asked.stdout.strip(), "") if asked.returncode == 0 else ("", said[-1] if said else "it gives no reason")


def engine_version() -> str:
    """The version of the Docker engine that answers, or nothing."""
    return ask()[0]


def check_engine() -> str:
    """The engine's version; ``FleetError`` with the next step when none answers."""
    version, why = ask()
    if not version:
        raise FleetError(f"no Docker engine answers: {why}", hint=next_step(why))
    return version


def next_step(why: str) -> str:
    """What mends that no engine answered."""
    return REACH if "permission denied" in why.lower() else START


def has(image: Image) -> bool:
    """Whether the engine has this very image: by the content key that it carries, not by its name alone."""
    asked = docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{KEY_LABEL}"}}}}', image.name)
    return asked.returncode == 0 and asked.stdout.strip() == image.key


def load(image: Image) -> None:
    """Hand the archive to the engine; ``FleetError`` when it does not take it."""
    done = docker("load", "--input", str(image.archive))
    if done.returncode or not has(image):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise FleetError(
            f"Docker did not take {image.archive}: {said[-1] if said else 'no reason given'}",
            hint="is there space left for Docker's own folder (docker info: Docker Root Dir)?",
        )


def hand_to(node: str, image: Image) -> None:
    """Put the serving image into a node made of our own node image: only its top layer travels.

    For other node images use ``kind load image-archive``, which takes the whole ``image.archive``.
    """
    words = ["docker", "exec", "--interactive", node, "ctr", "--namespace", "k8s.io", "images", "import", "-"]
    with image.upper.open("rb") as file:
        done = subprocess.run(words, stdin=file, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise FleetError(
            f"node {node} did not take {image.name}: {said[-1] if said else 'no reason given'}",
            hint="is the node made of the node image of the same build? `make kind-images`, then make the cluster anew",
        )
