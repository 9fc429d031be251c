"""The plan of the build: which steps there are, what each depends on, and what can change its result.

    kubernetes ─┬─────────────────────┐
    etcd, coredns, pause ─────────────┼─> node (image archive)
    kind ── (its base files) ─────────┤
    debian ─┬─────────────────────────┤
    wheels ─┴─> serving-base ─────────┘
                     └─> serving (image archive)

``images`` runs it; making a plan reads files of the checkout and nothing else.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline import gobuild, node, serving, tree
from fleet.environments.kind.offline.archive import LOCAL
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


def kind_files(versions: Versions) -> Step:
    """kind's base files (entrypoint, units, containerd's configuration), out of its Go module."""
    module, version = versions.modules["kind"]

    def make(shop: Workshop) -> None:
        (shop.out / "go.mod").write_text("module blackstart.local/look\n")
        theirs = gobuild.download(shop, module, version) / "images/base/files"
        unused = shutil.ignore_patterns("LICENSES", "README.txt", "clean-install", "*fuse-overlayfs*")
        shutil.copytree(theirs, shop.out / "files", ignore=unused, copy_function=shutil.copyfile)

    return Step(
        "kind-files", f"take kind's base files out of {module} {version}", make, {"module": f"{module}@{version}"}
    )


def pause() -> Step:
    """The program that holds a pod open; ours, of the standard library alone."""
    main = HERE / "go" / "pause"

    def make(shop: Workshop) -> None:
        command: list[str | Path] = [
            "go",
            "build",
            "-trimpath",
            "-ldflags",
            "-s -w",
            "-o",
            shop.out / "pause",
            main / "main.go",
        ]
        shop.run(command, cwd=shop.out, env=gobuild.GO)

    return Step("pause", "compile the pause program", make, {"main": digest(main.glob("*.go"), main)})


def code(*modules: str) -> str:
    """The text of modules of this builder, for steps whose result depends on how they are written."""
    return digest([HERE / f"{module}.py" for module in modules], HERE)


def debian(versions: Versions, mirror: str) -> Step:
    packages = (*versions.packages["node"], *versions.packages["python"])

    def make(shop: Workshop) -> None:
        tree.debootstrap(shop, versions.suite, packages, mirror)

    inputs = {"suite": versions.suite, "packages": " ".join(packages), "machine": platform.machine()}
    return Step("debian", f"install Debian {versions.suite} into a folder", make, inputs)


def node_image(versions: Versions, needs: tuple[Step, ...]) -> Step:
    """The node image's archive; named after Kubernetes' version and the content."""

    def make(shop: Workshop) -> None:
        node.make(
            shop,
            name=node_name(versions, step),
            key=step.key,
            kubernetes=versions.kubernetes,
            kube_proxy=versions.packages["kube_proxy"],
            python=versions.packages["python"],
        )

    inputs = {
        "kube_proxy": " ".join(versions.packages["kube_proxy"]),
        "files": digest((HERE / "node").iterdir(), HERE),
        "code": code("node", "archive", "tree"),
    }
    step = Step("node", f"put the node image for Kubernetes {versions.kubernetes} together", make, inputs, needs)
    return step


def serving_steps(versions: Versions, project: Path, tree_step: Step) -> tuple[Step, Step, Step]:
    """The Python packages, the image's base, the image's archive."""
    constraints = project / "constraints.txt"

    def make_wheels(shop: Workshop) -> None:
        serving.wheels(shop, versions.requirements, constraints, versions.python)

    def make_base(shop: Workshop) -> None:
        serving.base(shop, versions.packages["serving"])

    def make(shop: Workshop) -> None:
        serving.image(shop, name=serving_name(top), key=top.key, project=project, packages=versions.project)

    pins = {
        "constraints": constraints.read_text(),
        "requirements": " ".join(versions.requirements),
        "python": versions.python,
        "machine": platform.machine(),
        "code": code("serving"),
    }
    wheels = Step("wheels", "install the serving image's Python packages into a folder", make_wheels, pins)
    how = {"packages": " ".join(versions.packages["serving"]), "code": code("serving", "archive", "tree")}
    base = Step("serving-base", "cut Python out of the Debian tree", make_base, how, (tree_step, wheels))
    content = digest(serving.sources(project, versions.project), project)
    inputs = {"sources": content, "code": code("serving", "archive")}
    top = Step("serving", "put the serving image together", make, inputs, (tree_step, base))
    return wheels, base, top


def node_name(versions: Versions, step: Step) -> str:
    return f"{LOCAL}/node:{versions.kubernetes}-{step.key}"


def serving_name(step: Step) -> str:
    return f"{LOCAL}/serving:{step.key}"


def make_plan(versions: Versions, project: Path, *, mirror: str = "") -> Plan:
    """The whole plan. ``project``: the checkout; ``mirror``: where debootstrap gets Debian, if not from its default."""
    programs = go_steps(versions)
    files, hold, base_tree = kind_files(versions), pause(), debian(versions, mirror)
    wheels, base, top = serving_steps(versions, project, base_tree)
    image = node_image(versions, (*[p for p in programs if p.name != "kind"], hold, files, base_tree, base))
    # kubernetes takes longest and debian waits for the network: they begin together
    order = (programs[0], base_tree, *programs[1:], hold, files, wheels, base, image, top)
    return Plan({step.name: step for step in order}, image, top)
