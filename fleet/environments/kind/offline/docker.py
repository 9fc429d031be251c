"""What the offline builder asks of a Docker engine: is one there, does it have an image, take this archive."""

from __future__ import annotations

import shutil
import subprocess

from fleet.environments.kind.offline.archive import KEY_LABEL
from fleet.environments.kind.offline.paths import Image
from history.errors import FleetError

START = "start one: as root `make docker-engine`; or install and start Docker, and let this user reach it"


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the docker client; never raises for its exit code."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


def engine_version() -> str:
    """The version of the Docker engine that answers, or nothing."""
    if not shutil.which("docker"):
        return ""
    asked = docker("version", "--format", "{{.Server.Version}}")
    return asked.stdout.strip() if asked.returncode == 0 else ""


def check_engine() -> str:
    """The engine's version; ``FleetError`` with the next step when none answers."""
    if version := engine_version():
        return version
    why = docker("version").stderr.strip().splitlines() if shutil.which("docker") else ["no docker on the PATH"]
    raise FleetError(f"no Docker engine answers: {why[-1] if why else 'no reason given'}", hint=START)


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
