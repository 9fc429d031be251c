"""``blackstart`` and ``docker`` as the tests of this folder call them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).with_name("blackstart"))]


@dataclass(frozen=True)
class Console:
    """``blackstart`` with a state directory and a folder for runs of its own."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run(self, *words: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "BLACKSTART_STATE": str(self.state), "KUBECONFIG": str(self.folder / "users.kubeconfig")}
        return subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, timeout=timeout_s, check=False, env=env, cwd=ROOT
        )

    def drill(self, name: str, *words: str) -> tuple[int, str, Path]:
        """(exit code, what was printed, the run's directory)."""
        before = set(self.runs.glob("*"))
        done = self.run("run", name, "--env", "kind", "--out", str(self.runs), "--plain", *words)
        (made,) = set(self.runs.glob("*")) - before
        return done.returncode, done.stdout + done.stderr, made


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
