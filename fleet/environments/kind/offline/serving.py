"""The serving image: Python from the distribution, the packages that ``fleet.serving`` imports, and the project.

Two layers: Python and its packages stand in the lower one and change rarely; the project's own sources are the upper
one, so a change of theirs costs seconds. ``plan`` calls this inside steps; no Docker engine takes part.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline import archive, tree
from fleet.environments.kind.offline.archive import Image, Layer
from fleet.environments.kind.offline.recipe import Workshop, remove

PACKAGES: Final = "usr/lib/python3/dist-packages"
"""Where Debian's Python looks for packages."""
PROJECT: Final = "opt/blackstart"
"""Where the project's own packages are; the image's PYTHONPATH."""
NOT_SERVED: Final = (
    "usr/lib/python3.11/test",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/unittest",
    "usr/lib/python3.11/xml",
)
"""Parts of the distribution's Python that no server uses. Each file counts: it is copied into every node's volume, and
deleted out of it."""
ONLY_FOR_BUILDING: Final = ("*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.c", "*.h", "*.dist-info")
"""Parts of packages that nothing which runs reads."""
GLIBC: Final = ("2_17", "2_28", "2_34", "2_36")
"""Wheels for these C libraries run on Debian 12 (glibc 2.36)."""


def wheels(shop: Workshop, requirements: Sequence[str], constraints: Path, python: str) -> None:
    """Install the requirements in ``shop.out / packages``: wheels for the image's Python, whatever this host's is."""
    command: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-compile", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for glibc in GLIBC:
        command += ["--platform", f"manylinux_{glibc}_{platform.machine()}"]
    command += ["--target", shop.out / "packages", "-c", constraints, *requirements]
    shop.run(command)
    for pattern in ("tests", *ONLY_FOR_BUILDING):
        for unread in sorted((shop.out / "packages").rglob(pattern)):
            remove(unread) if unread.is_dir() else unread.unlink()
    remove(shop.out / "packages/bin")


def base(shop: Workshop, packages: Iterable[str]) -> None:
    """The lower layer, ``base.tar`` in ``shop.out``."""
    debian, root = shop.got["debian"] / "root", shop.out / "root"
    left_out = tuple(f"{folder}/" for folder in NOT_SERVED)
    files = [path for path in tree.files_of(debian, packages, ("usr/bin/sh",)) if not path.startswith(left_out)]
    cut = archive.pack(shop, debian, shop.out / "python.tar", only=files).path
    root.mkdir()
    shop.run(["tar", "-C", root, "-x", "-f", cut])
    shutil.copytree(shop.got["wheels"] / "packages", root / PACKAGES, symlinks=True, dirs_exist_ok=True)
    os.symlink("python3.11", root / "usr/bin/python3")
    compiled(shop, debian, root)
    archive.pack(shop, root, shop.out / "base.tar")
    remove(root)
    cut.unlink()


def compiled(shop: Workshop, debian: Path, root: Path) -> None:
    """Compile all Python files below ``root`` with the image's own Python, and leave only what was compiled: a pod's
    start then compiles nothing, and an image has half the files.

    The Python that runs is the Debian tree's, in a mount namespace of its own where ``root`` stands at ``/mnt``.
    """
    inside = 'mount --bind "$2" "$1/mnt" && exec chroot "$1" python3.11 -m compileall -q -j 1 -b -s /mnt -p / /mnt'
    shop.run([*tree.PRIVATE, "sh", "-c", inside, "compile", debian, root])
    for source in sorted(root.rglob("*.py")):
        if source.with_suffix(".pyc").exists():
            source.unlink()


def sources(project: Path, packages: Iterable[str]) -> list[Path]:
    """The project's files that go into the image: its packages, without this builder and without caches."""
    found = []
    for package in packages:
        for file in sorted((project / package).rglob("*")):
            inside = file.relative_to(project).parts
            if file.is_file() and "__pycache__" not in inside and "offline" not in inside:
                found.append(file)
    return found


def image(shop: Workshop, *, name: str, key: str, project: Path, packages: Iterable[str]) -> None:
    """Build the image archive ``shop.out / image.tar``, and ``upper.tar`` for nodes that have the lower layer."""
    root, lower = shop.out / "root", shop.got["serving-base"]
    for file in sources(project, packages):
        target = root / PROJECT / file.relative_to(project)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    compiled(shop, shop.got["debian"] / "root", root)
    layers = (Layer.of(lower / "base.tar"), archive.pack(shop, root, shop.out / "top.tar"))
    env = (archive.SEARCH_PATH, f"PYTHONPATH=/{PROJECT}", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
    start = ("/usr/bin/python3",)
    whole = Image((name,), layers, start, env, {archive.KEY_LABEL: key})
    archive.write(shop.out / "image.tar", [whole])
    archive.write_upper(shop.out / "upper.tar", whole)
    remove(root)
    (shop.out / "top.tar").unlink()
