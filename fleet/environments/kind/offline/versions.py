"""The pinned versions, read from ``versions.toml``. Every step of the plan takes its pins from here."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("versions.toml")


@dataclass(frozen=True)
class Versions:
    """What ``versions.toml`` says."""

    go: str
    """The oldest Go that compiles the modules."""
    modules: Mapping[str, tuple[str, str]]
    """Program -> (Go module, version)."""
    suite: str
    """The Debian suite."""
    packages: Mapping[str, tuple[str, ...]]
    """Purpose -> Debian packages."""
    host: Mapping[str, str]
    """Command -> the package of this host that has it."""
    python: str
    """The Python of the serving image."""
    requirements: tuple[str, ...]
    project: tuple[str, ...]
    """The project's own packages in the serving image."""

    @property
    def kubernetes(self) -> str:
        return self.modules["kubernetes"][1]


def read(file: Path = FILE) -> Versions:
    """The versions in a file."""
    told = tomllib.loads(file.read_text())
    debian = dict(told["debian"])
    return Versions(
        go=told["go"]["at_least"],
        modules={name: (module, version) for name, (module, version) in told["modules"].items()},
        suite=debian.pop("suite"),
        packages={purpose: tuple(names) for purpose, names in debian.items()},
        host=told["host"],
        python=told["serving"]["python"],
        requirements=tuple(told["serving"]["requirements"]),
        project=tuple(told["serving"]["project"]),
    )
