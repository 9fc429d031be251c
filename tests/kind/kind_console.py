"""``blackstart`` and ``docker`` as the tests of this folder call them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fleet.environments.kind.cluster import KindCluster
from fleet.environments.kind.fleet import KindFleet
from fleet.environments.kind.state import Folder
from tests.drills.harness import TRIES, host_held_up

ROOT = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).with_name("blackstart"))]


@dataclass(frozen=True)
class Console:
    """``blackstart`` with a state directory and a folder for runs of its own."""

    folder: Path
    before: frozenset[str] = field(default_factory=lambda: Console.on_the_engine())
    """What the engine had before any test."""

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "BLACKSTART_STATE": str(self.state), "KUBECONFIG": str(self.folder / "users.kubeconfig")}

    def run(self, *words: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, timeout=timeout_s, check=False, env=self.env, cwd=ROOT
        )

    def drill(self, name: str, *words: str) -> tuple[int, str, Path]:
        """(exit code, what was printed, the run's directory); repeated where this host was too busy to send in time."""
        for _ in range(TRIES):
            before = set(self.runs.glob("*"))
            done = self.run("run", name, "--env", "kind", "--out", str(self.runs), "--plain", *words)
            (made,) = set(self.runs.glob("*")) - before
            if not host_held_up(made):
                break
            print(done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr, made

    @staticmethod
    def on_the_engine() -> frozenset[str]:
        """All containers, volumes and networks by name."""
        lists = (
            ("ps", "--all", "--format", "{{.Names}}"),
            ("volume", "ls", "-q"),
            ("network", "ls", "--format", "{{.Name}}"),
        )
        return frozenset(name for words in lists for name in docker(*words).split())

    def cluster(self, name: str) -> KindCluster:
        """A cluster of the fleet that is up."""
        folder = Folder(self.state / "kind")
        state = folder.read()
        assert state is not None
        return next(one for one in KindFleet(state.spec, folder=folder).clusters if one.name == name)


def until(done: Callable[[], object], limit_s: float) -> None:
    """Returns when ``done`` says something true; fails after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        time.sleep(0.2)


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
