"""A Debian tree made by debootstrap, and the files of some packages cut out of it.

The node image is the whole tree without Python; kube-proxy's image and the serving image are only the files of a few
packages and of all that they depend on, as dpkg lists them. ``plan`` calls this inside steps; as root.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline.recipe import Workshop, remove

NO_QUESTIONS: Final = frozenset({"debconf", "debconf-2.0", "dpkg", "install-info", "gcc-12-base"})
"""Packages that others depend on for their installation only: nothing that runs needs them."""
LINKED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Top folders that are links into /usr in a merged tree, while dpkg's lists may still name them."""
DEAD_WEIGHT: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
)

PRIVATE: Final = ("unshare", "--mount", "--propagation", "private")
"""Mounts that a command makes vanish with it, however it ends."""


def debootstrap(shop: Workshop, suite: str, packages: Sequence[str], mirror: str = "") -> Path:
    """A tree of the suite with the packages in ``shop.out / root``; downloads stay in the cache for the next try."""
    root, debs = shop.out / "root", shop.cache / "debs"
    debs.mkdir(exist_ok=True)
    command = [*PRIVATE, "debootstrap", "--variant=minbase", f"--cache-dir={debs}", f"--include={','.join(packages)}"]
    shop.run([*command, suite, root, *([mirror] if mirror else [])], env={"DEBIAN_FRONTEND": "noninteractive"})
    for name in DEAD_WEIGHT:
        remove(root / name)
    return root


def stanzas(status: str) -> Iterable[dict[str, str]]:
    """The stanzas of a dpkg status file, first lines of their fields only."""
    for block in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if "Package" in fields:
            yield fields


def names(relation: str) -> list[list[str]]:
    """A dependency field as a list of alternatives: ``a (>= 1), b | c:any`` -> [[a], [b, c]]."""
    return [
        [choice.strip().split(" ")[0].split(":")[0] for choice in part.split("|")]
        for part in relation.split(",")
        if part.strip()
    ]


def closure(status: str, roots: Iterable[str], skip: Iterable[str] = NO_QUESTIONS) -> set[str]:
    """The packages and all that they depend on, as installed; ``KeyError`` names one that is not."""
    needs: dict[str, list[list[str]]] = {}
    offered: dict[str, str] = {}
    for fields in stanzas(status):
        package = fields["Package"]
        needs[package] = names(fields.get("Pre-Depends", "")) + names(fields.get("Depends", ""))
        offered |= {virtual: package for (virtual, *_) in names(fields.get("Provides", ""))}
    found: set[str] = set()
    todo = list(roots)
    left_out = set(skip)
    while todo:
        package = todo.pop()
        if package in found or package in left_out:
            continue
        alternatives = needs[package]
        found.add(package)
        for choices in alternatives:
            if left_out.intersection(choices):
                continue
            todo.append(
                next((c for c in choices if c in needs), None) or offered[next(c for c in choices if c in offered)]
            )
    return found


def merged(path: str, links: Mapping[str, str]) -> str:
    """A path from dpkg's lists as it is in a tree whose /bin, /lib … are links into /usr."""
    first, _, rest = path.strip("/").partition("/")
    return f"{links[first]}/{rest}" if rest and first in links else path.strip("/")


def files_of(root: Path, packages: Iterable[str], also: Iterable[str] = ()) -> list[str]:
    """The files, links and folders of packages in a tree, relative to it, without the C library's tables of other
    character sets; ``also``: glob patterns for links that installation scripts made."""
    links = {name: os.readlink(root / name) for name in LINKED if (root / name).is_symlink()}
    info = root / "var/lib/dpkg/info"
    found = set(links) | {"tmp", "run", "var", "var/tmp", "etc"}
    for package in closure((root / "var/lib/dpkg/status").read_text(), packages):
        lists = [*info.glob(f"{package}.list"), *info.glob(f"{package}:*.list")]
        for line in lists[0].read_text().splitlines():
            path = merged(line, links)
            if path not in ("", ".") and "/gconv/" not in path and os.path.lexists(root / path):
                found.add(path)
    for pattern in also:
        found |= {str(path.relative_to(root)) for path in root.glob(pattern)}
    return sorted(found)
