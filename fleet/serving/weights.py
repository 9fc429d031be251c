"""Weights on disk: a manifest a model, and objects named by the sha256 of their bytes.

    ROOT/models/MODEL.json    {"model", "seed", "objects": [{"sha256", "bytes"}]}     ROOT/objects/SHA256

The environment makes them, the store serves them, agents and model servers verify them. Object names are hashes, so
equal bytes are stored once and a name proves its content.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import msgspec

from history.errors import UsageError


class WeightObject(msgspec.Struct, frozen=True):
    """One piece of a model's weights."""

    sha256: str
    bytes: int


class Manifest(msgspec.Struct, frozen=True):
    """What a model's weights are made of, in order."""

    model: str
    objects: tuple[WeightObject, ...]
    seed: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(item.bytes for item in self.objects)


class Fetch(msgspec.Struct, frozen=True):
    """Body of an agent's ``POST /fetch``."""

    model: str
    corrupt: tuple[str, ...] = ()


class Fetched(msgspec.Struct, frozen=True):
    """Answer to it. ``paths`` are in the manifest's order, as are ``objects``."""

    model: str
    paths: tuple[str, ...]
    objects: tuple[WeightObject, ...]
    source: str
    bytes: int
    seconds: float
    lease: int


decode_manifest = msgspec.json.Decoder(Manifest).decode


def manifest_path(root: Path, model: str) -> Path:
    """Where the manifest of ``model`` is; a slash in its name is quoted."""
    return root / "models" / f"{quote(model, safe='')}.json"


def object_path(root: Path, sha256: str) -> Path:
    """Where an object is."""
    return root / "objects" / sha256


def is_sha256(name: str) -> bool:
    """Is this 64 lower-case hexadecimal digits, hence safe as a file name?"""
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


def make_weights(root: Path, model: str, size_bytes: int, seed: int, piece_bytes: int) -> Manifest:
    """Writes ``size_bytes`` of pseudo-random weights in pieces of ``piece_bytes``; the same arguments, the same bytes.

    Does nothing when the manifest already says the same. ``UsageError`` for sizes below 1.
    """
    if size_bytes < 1 or piece_bytes < 1:
        raise UsageError(
            f"weights of {model}: {size_bytes} bytes in pieces of {piece_bytes}; both must be at least 1",
            hint="give the model's weight_bytes and piece_bytes as positive numbers of bytes",
        )
    path = manifest_path(root, model)
    sizes = [min(piece_bytes, size_bytes - start) for start in range(0, size_bytes, piece_bytes)]
    if path.exists():
        known = decode_manifest(path.read_bytes())
        if known.seed == seed and [item.bytes for item in known.objects] == sizes and _complete(root, known):
            return known
    (root / "objects").mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    import numpy as np  # servers and agents, who make none, start without it

    stream = np.random.Generator(np.random.SFC64(int.from_bytes(hashlib.sha256(f"{seed}/{model}".encode()).digest())))
    objects = []
    for size in sizes:
        data = stream.bytes(size)
        name = hashlib.sha256(data).hexdigest()
        _write(object_path(root, name), data)
        objects.append(WeightObject(name, size))
    manifest = Manifest(model, tuple(objects), seed)
    _write(path, msgspec.json.encode(manifest))
    return manifest


def _complete(root: Path, manifest: Manifest) -> bool:
    paths = [(object_path(root, item.sha256), item.bytes) for item in manifest.objects]
    return all(path.exists() and path.stat().st_size == size for path, size in paths)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
