"""Where the offline builder's results are: what later code needs to use kind, kubectl and the two images.

    from fleet.environments.kind.offline.paths import Paths
    paths = Paths.of_this_machine()
    paths.kind, paths.kubectl                     # programs in the cache's bin/, links into the shelf
    paths.images["node"].name                     # as Docker and the clusters know it, once built

    paths.images["serving"].archive               # for `kind load image-archive`, which needs no Docker store

``images`` are those of the last build; ``images.ensure`` makes sure that they are those of the sources as they are now.
``make kind-images`` writes ``images.json`` beside bin/; nothing here builds, and a missing file is an empty answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OVERRIDE: Final = "BLACKSTART_CACHE"
"""The environment variable that moves the cache."""


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The cache: ``$BLACKSTART_CACHE``, else ``$XDG_CACHE_HOME/blackstart``, else ``~/.cache/blackstart``."""
    if env.get(OVERRIDE):
        return Path(env[OVERRIDE]).absolute()
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blackstart"


@dataclass(frozen=True)
class Image:
    """An image that was built here: its name, and the archive that ``docker load`` and ``kind load`` take."""

    name: str
    archive: Path
    key: str
    """The content key; the image carries it as its label ``blackstart.key``."""

    @property
    def upper(self) -> Path:
        """The same image without what our own node image already holds (serving image only): see ``docker.hand_to``."""
        return self.archive.with_name("upper.tar")


@dataclass(frozen=True)
class Paths:
    """The cache's inside, as other code may use it."""

    cache: Path

    @classmethod
    def of_this_machine(cls) -> Paths:
        return cls(cache_dir())

    @property
    def bin(self) -> Path:
        """The folder to put in front of PATH."""
        return self.cache / "bin"

    @property
    def kind(self) -> Path:
        return self.bin / "kind"

    @property
    def kubectl(self) -> Path:
        return self.bin / "kubectl"

    @property
    def images_file(self) -> Path:
        return self.cache / "images.json"

    @property
    def images(self) -> dict[str, Image]:
        """The images of the last build, ``node`` and ``serving``; empty before the first."""
        if not self.images_file.exists():
            return {}
        told = json.loads(self.images_file.read_text())
        return {name: Image(line["name"], self.cache / line["archive"], line["key"]) for name, line in told.items()}

    def write_images(self, images: Mapping[str, Image]) -> None:
        """Replace the list of images, all at once."""
        told = {
            name: {"name": image.name, "archive": str(image.archive.relative_to(self.cache)), "key": image.key}
            for name, image in images.items()
        }
        part = self.images_file.with_suffix(".part")
        part.write_text(json.dumps(told, indent=1) + "\n")
        part.replace(self.images_file)
