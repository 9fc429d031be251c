"""The plan of the build: which steps there are, what each depends on, and what can change its result.

    kubernetes ─┬─────────────────────┐
    etcd, coredns, pause ─────────────┼─> node (image archive)
    kind ── (its base files) ─────────┤
    debian ─┬─────────────────────────┘
    wheels ─┴─> serving-base ─> serving (image archive)

``images`` runs it; making a plan reads files of the checkout and nothing else.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline import gobuild
from fleet.environments.kind.offline.recipe import Step, Workshop
from fleet.environments.kind.offline.versions import Versions

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Plan:
    """All steps by name, and the two that are image archives."""

    steps: dict[str, Step]
    node: Step
    serving: Step


def digest(files: Iterable[Path], root: Path) -> str:
    """One hash over names and contents of some files."""
    whole = hashlib.sha256()
    for file in sorted(files):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        whole.update(f"{file.relative_to(root)} {content}\n".encode())
    return whole.hexdigest()


def go_step(versions: Versions, name: str, *, package: str, main: Path | None = None, stamp: str = "") -> Step:
    """A program out of a pinned Go module."""
    module, version = versions.modules[name]

    def make(shop: Workshop) -> None:
        gobuild.build(shop, name, module, version, package=package, main=main, stamp=stamp)

    inputs = {"module": f"{module}@{version}", "package": package, "stamp": stamp, "machine": platform.machine()}
    if main:
        inputs["main"] = digest(main.glob("*.go"), main)
    return Step(name, f"compile {module} {version}", make, inputs)


def go_steps(versions: Versions) -> list[Step]:
    """Kubernetes (one program for all commands), etcd, CoreDNS, kind."""
    stamp = gobuild.kubernetes_stamp(versions.kubernetes)
    return [
        go_step(versions, "kubernetes", package=".", main=HERE / "go" / "kubernetes", stamp=stamp),
        go_step(versions, "coredns", package=".", main=HERE / "go" / "coredns"),
        go_step(versions, "etcd", package=versions.modules["etcd"][0]),
        go_step(versions, "kind", package=versions.modules["kind"][0]),
    ]
