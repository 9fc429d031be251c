"""``Stage``: one stage of a cluster's restore as people live through it: what is done, how long it takes, a check.

The duration is what people and providers need; it is the only thing that is programmed. What is done happens to the
real cluster, and what its check saw stands in the history. Values only; ``runner.staging`` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from drills.engine.nouns.located import Located, Problem

Deed = Literal[
    "wait",
    "set up",
    "cut control plane",
    "mend control plane",
    "upgrade",
    "downgrade",
    "check ingress",
    "tear down",
    "rebuild",
    "return traffic",
]


@dataclass(frozen=True)
class Stage(Located):
    """``does`` is done at once, checked, and the rest of ``seconds`` is waited.

    ``value``: the version (upgrade, downgrade), or the manifests themselves (check ingress). ``return traffic`` raises
    the cluster's part of the traffic evenly over ``seconds``. ``refused``: the declared answer of the check is no.
    """

    name: str
    seconds: float
    does: Deed = "wait"
    value: str = ""
    refused: bool = False

    def problems(self) -> list[Problem]:
        found = []
        if not self.seconds >= 0:
            found.append(f"seconds={self.seconds!r}: must not be negative")
        if self.does not in get_args(Deed):
            found.append(f"does={self.does!r}: must be one of {', '.join(get_args(Deed))}")
        if self.does in ("upgrade", "downgrade", "check ingress") and not self.value:
            found.append(f"does={self.does!r}: needs a value")
        return [self.problem(f"Stage {self.name!r}: {text}") for text in found]


def stage_problems(cluster: str, stages: tuple[Stage, ...]) -> list[Problem]:
    """Mistakes of a restore's stages: each one's own, and a restore that never rebuilds anything."""
    found = [problem for stage in stages for problem in stage.problems()]
    if stages and not any(stage.does == "rebuild" for stage in stages):
        found.append(stages[0].problem(f"Restore({cluster!r}): one of its stages must be 'rebuild'"))
    return found
