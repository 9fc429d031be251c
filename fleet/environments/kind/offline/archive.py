"""Image archives in the form that ``docker load``, ``kind load image-archive`` and ``ctr images import`` take.

An archive is put together out of layers (tar files) without any Docker engine, and the same layers give the same
bytes: times are zero, names are sorted. ``node`` and ``serving`` call this.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline.recipe import Workshop

SEARCH_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""The kernel's name of a machine -> the name that images use."""
KEY_LABEL: Final = "blackstart.key"
LOCAL: Final = "localhost/blackstart"
"""How the names of our images begin: a name that no client ever takes for somebody's image on the internet."""


@dataclass(frozen=True)
class Layer:
    """One tar file of an image."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Layer:
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Image:
    """An image to write: its names, its layers from the bottom up, and how it starts."""

    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = (SEARCH_PATH,)
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    folder: str = "/"

    def config(self) -> bytes:
        """The image's configuration; its hash is the image's identity."""
        run: dict[str, object] = {"Env": list(self.env), "WorkingDir": self.folder, "Labels": self.labels}
        if self.entrypoint:
            run["Entrypoint"] = list(self.entrypoint)
        if self.stop_signal:
            run["StopSignal"] = self.stop_signal
        whole = {
            "architecture": MACHINES[platform.machine()],
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.sha256}" for layer in self.layers]},
            "history": [{"created_by": "blackstart offline builder"} for _ in self.layers],
        }
        return json.dumps(whole, sort_keys=True).encode()


def pack(shop: Workshop, root: Path, tar: Path, *, only: Sequence[str] | None = None, root_owns: bool = True) -> Layer:
    """Pack a folder, or ``only`` some paths of it, as a layer. ``root_owns``: whatever the owners are on this host."""
    command: list[str | Path] = ["tar", "--sort=name", "--mtime=@0", "--numeric-owner", "--format=pax"]
    command += ["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]
    command += ["--owner=0", "--group=0"] if root_owns else []
    command += ["-C", root, "-c", "-f", tar]
    if only is None:
        shop.run([*command, "."])
    else:
        listed = shop.out / f"{tar.name}.list"
        listed.write_text("".join(f"{path}\0" for path in only))
        shop.run([*command, "--no-recursion", "--null", "--verbatim-files-from", "-T", listed])
        listed.unlink()
    return Layer.of(tar)


def write(path: Path, images: Sequence[Image]) -> None:
    """Write one archive with these images; layers that they share are in it once."""
    manifest = []
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        held: set[str] = set()
        for image in images:
            config = image.config()
            name = hashlib.sha256(config).hexdigest() + ".json"
            if name not in held:
                add(archive, name, config)
                held.add(name)
            for layer in image.layers:
                if layer.sha256 not in held:
                    held.add(layer.sha256)
                    with layer.path.open("rb") as file:
                        archive.addfile(member(f"{layer.sha256}.tar", layer.path.stat().st_size), file)
            layers = [f"{layer.sha256}.tar" for layer in image.layers]
            manifest.append({"Config": name, "RepoTags": list(image.names), "Layers": layers})
        add(archive, "manifest.json", json.dumps(manifest).encode())


def write_upper(path: Path, image: Image) -> None:
    """Write an image without its lower layers, for a containerd that has those unpacked already: an OCI layout whose
    manifest names all layers and whose blobs are the configuration and the top layer. ``docker load`` refuses it."""
    config, top = image.config(), image.layers[-1]
    kind = "application/vnd.oci.image"
    layers = [blob(f"{kind}.layer.v1.tar", one.sha256, one.path.stat().st_size) for one in image.layers]
    about = blob(f"{kind}.config.v1+json", hashlib.sha256(config).hexdigest(), len(config))
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": f"{kind}.manifest.v1+json", "config": about, "layers": layers}
    ).encode()
    named = [
        blob(f"{kind}.manifest.v1+json", hashlib.sha256(manifest).hexdigest(), len(manifest))
        | {"annotations": {"io.containerd.image.name": name}}
        for name in image.names
    ]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": named}).encode())
        for content in (manifest, config):
            add(archive, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)
        with top.path.open("rb") as file:
            archive.addfile(member(f"blobs/sha256/{top.sha256}", top.path.stat().st_size), file)


def blob(media_type: str, sha256: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": size}


def member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(member(name, len(content)), io.BytesIO(content))
