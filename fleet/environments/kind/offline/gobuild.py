"""Programs out of Go modules, each behind a small go.mod of our own; nothing is cloned.

``plan`` calls these inside steps. The Go command keeps its own caches of modules and of compiled packages (GOMODCACHE,
GOCACHE), so an interrupted compilation goes on where it was. Never downloads a Go tool chain.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fleet.environments.kind.offline.recipe import Workshop
from history.errors import FleetError

GO = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false", "GOWORK": "off", "GOTOOLCHAIN": "local"}


def check_go(at_least: str) -> None:
    """``FleetError`` unless a Go command of at least that version is on the PATH."""
    hint = f"install Go {at_least} or newer and put it on the PATH"
    if not shutil.which("go"):
        raise FleetError(
            f"no go on the PATH; Go {at_least} or newer compiles Kubernetes, etcd, CoreDNS and kind", hint=hint
        )
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True, env=None).stdout
    check_version(said.strip(), at_least)


def check_version(found: str, at_least: str) -> None:
    """``FleetError`` when ``found`` (such as ``go1.26.8``) is older than ``at_least`` (such as ``1.24.6``)."""
    if numbers(found.removeprefix("go")) < numbers(at_least):
        raise FleetError(f"go is {found}; the modules need {at_least} or newer", hint=f"install Go {at_least} or newer")


def numbers(version: str) -> tuple[int, ...]:
    """``1.26.8`` -> (1, 26, 8); what follows a blank or a letter is left out."""
    out = []
    for part in version.split(" ")[0].split("."):
        digits = "".join(c for c in part if c.isdigit()) if part[:1].isdigit() else ""
        if not digits:
            break
        out.append(int(digits))
    return tuple(out)


def download(shop: Workshop, module: str, version: str) -> Path:
    """The module's folder in Go's module cache, downloaded when it is not there."""
    said = shop.ask(["go", "mod", "download", "-json", f"{module}@{version}"], cwd=shop.out, env={**GO, "GOFLAGS": ""})
    return Path(json.loads(said)["Dir"])


def staged(go_mod: Mapping[str, object], version: str) -> dict[str, str]:
    """The modules that Kubernetes keeps in its own tree, with the version under which each is published.

    ``go_mod``: what ``go mod edit -json`` says. Its ``replace`` lines point into ``./staging``, which a module's
    archive lacks; v1.34.4 of Kubernetes is v0.34.4 of each of them.
    """
    replaced = go_mod.get("Replace")
    assert isinstance(replaced, list)
    published = "v0." + version.removeprefix("v1.")
    return {line["Old"]["Path"]: published for line in replaced if line["New"]["Path"].startswith("./staging/")}


def go_mod_text(name: str, go: str, module: str, version: str, replace: Mapping[str, str]) -> str:
    """A go.mod that requires one module and sends some others to their published versions."""
    lines = [f"module blackstart.local/{name}", "", f"go {go}", "", f"require {module} {version}"]
    lines += [f"replace {path} => {path} {at}" for path, at in sorted(replace.items())]
    return "\n".join(lines) + "\n"


def build(
    shop: Workshop, name: str, module: str, version: str, *, package: str, main: Path | None = None, stamp: str = ""
) -> Path:
    """Compile one program to ``shop.out / name``.

    ``package``: what to compile: a package of the module, or ``.`` for our own ``main`` (a folder of Go files).
    ``stamp``: further words for the linker.
    """
    source = shop.out / "source"
    source.mkdir()
    (source / "go.mod").write_text("module blackstart.local/look\n")
    folder = download(shop, module, version)
    told = json.loads(shop.ask(["go", "mod", "edit", "-json", folder / "go.mod"], env=GO))
    replace = staged(told, version) if told.get("Replace") and module == "k8s.io/kubernetes" else {}
    (source / "go.mod").write_text(go_mod_text(name, told["Go"], module, version, replace))
    for file in sorted(main.glob("*.go")) if main else ():
        shutil.copy(file, source)
    shop.run(
        ["go", "build", "-v", "-trimpath", "-ldflags", f"-s -w {stamp}".strip(), "-o", shop.out / name, package],
        cwd=source,
        env=GO,
    )
    return shop.out / name


def kubernetes_stamp(version: str) -> str:
    """The linker's words that make every Kubernetes command say its version."""
    where = "k8s.io/component-base/version"
    major, minor, _ = version.removeprefix("v").split(".")
    said = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(f"-X {where}.{name}={value}" for name, value in said.items())
