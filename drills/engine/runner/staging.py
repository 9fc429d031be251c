"""``Staging``: a cluster's restore stage by stage, while the load goes on. Called by the step runner.

Each stage is one op: what was done, how long it took, what its check saw. A check that comes out otherwise than
declared ends the run; nothing here knows how long anything else takes to recover.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol, cast

from drills.engine.nouns import Restore, Stage, Until
from drills.engine.runner.guarding import RunStopped
from drills.engine.runner.injector import until_all
from drills.engine.runner.session import Session
from fleet.manifests import kinds_of, not_served
from fleet.protocols import ControlPlaneControl, PowerControl, RestorationControl, TrafficControl
from history.clock import NS_PER_S
from history.errors import FaultError, FleetError
from history.op import RESTORE_STAGE
from history.records import Signal

SETTLE_S = 10.0
"""What was done must be seen by then."""
RAMP_STEPS = 10
Wait = Callable[[int, str, Until | None], tuple[bool, str]]
"""Waits until an instant, with a phase for the strip; True when the criterion held before that."""


class Control(ControlPlaneControl, PowerControl, RestorationControl, TrafficControl, Protocol):
    """Everything that stages may ask of a cluster; ``unsupported`` says what one lacks."""


def unsupported(cluster: object) -> str:
    """Empty, or which control this environment lacks for a restore in stages."""
    needed = (ControlPlaneControl, PowerControl, RestorationControl, TrafficControl)
    missing = [protocol.__name__ for protocol in needed if not isinstance(cluster, protocol)]
    return f"a restore in stages needs {', '.join(missing)}, which this environment lacks" if missing else ""


class Staging:
    """One restore."""

    def __init__(self, session: Session, step: Restore, wait: Wait) -> None:
        self._session, self._step, self._wait = session, step, wait
        cluster = next(c for c in session.fleet.clusters if c.name == step.cluster)
        if reason := unsupported(cluster):
            raise RunStopped(reason)
        self._cluster = cast(Control, cluster)

    def run(self) -> tuple[bool, str]:
        """All stages; ``RunStopped`` when a check does not come out as declared."""
        session, began = self._session, self._session.clock()
        self._cluster.hold(True)
        for number, stage in enumerate(self._step.stages, 1):
            with session.stage(stage.does, self._step.cluster):
                ended = self._stage(stage, f"{number} of {len(self._step.stages)}: {stage.name}")
            if ended:
                since_s = (session.clock() - began) / NS_PER_S
                return True, f"Restore ended early at stage {number}, {since_s:.1f} s: {self._unless_text()}"
        took_s = (session.clock() - began) / NS_PER_S
        return True, f"Restored {self._step.cluster} in {len(self._step.stages)} stages, {took_s:.1f} s"

    def _unless_text(self) -> str:
        return self._step.unless.text if self._step.unless is not None else ""

    def _stage(self, stage: Stage, title: str) -> bool:
        """True when the rest may be left out."""
        session, began = self._session, self._session.clock()
        due = began + round(stage.seconds * NS_PER_S)
        signals = self._do(stage, due)
        early, _ = self._wait(due, f"restore, stage {title}", self._step.unless)
        as_declared = all(signal.ok != stage.refused for signal in signals)
        session.recorder.event(
            RESTORE_STAGE,
            at_ns=began,
            done_ns=session.clock(),
            ok=as_declared,
            cluster=self._step.cluster,
            name=stage.name,
            does=stage.does,
            seconds=stage.seconds,
            refused=stage.refused,
            signals=[asdict(signal) for signal in signals],
        )
        seen = "; ".join(signal.seen for signal in signals)
        session.view.note(
            f"stage {title}, {(session.clock() - began) / NS_PER_S:.1f} s" + (f" ({seen})" if seen else "")
        )
        if not as_declared:
            raise RunStopped(f"restore of {self._step.cluster}, stage {title}: not as declared: {seen}")
        return early

    def _do(self, stage: Stage, due_ns: int) -> tuple[Signal, ...]:
        cluster = self._cluster
        try:
            match stage.does:
                case "set up":
                    cluster.power_on()
                    return self._seen(cluster.verify_power_on)
                case "cut control plane":
                    cluster.cut_control_plane()
                    return self._seen(cluster.verify_control_plane_cut)
                case "mend control plane":
                    cluster.mend_control_plane()
                    return self._seen(cluster.verify_control_plane_mended)
                case "upgrade" | "downgrade":
                    refusal = cluster.upgrade(stage.value)
                    return (Signal(stage.does, not refusal, refusal or f"the cluster is {stage.value}"),)
                case "check ingress":
                    return (self._ingress(stage.value),)
                case "tear down":
                    cluster.power_off(cluster.signatures[0])
                    return self._seen(cluster.verify_power_off)
                case "rebuild":
                    return self._session.heal(self._step.cluster)
                case "return traffic":
                    return self._return_traffic(stage, due_ns)
        except (FaultError, FleetError) as error:
            return (Signal(stage.does, False, error.message),)
        return ()

    def _seen(self, look: Callable[[], tuple[Signal, ...]]) -> tuple[Signal, ...]:
        clock = self._session.clock
        return until_all(look, SETTLE_S, clock, lambda: self._wait(clock() + NS_PER_S // 20, "restore", None))

    def _ingress(self, manifests: str) -> Signal:
        missing = not_served(manifests, self._cluster.served())
        if missing:
            return Signal("ingress", False, f"the cluster does not serve {', '.join(missing)}")
        return Signal("ingress", True, f"the cluster serves {', '.join(kinds_of(manifests))}")

    def _return_traffic(self, stage: Stage, due_ns: int) -> tuple[Signal, ...]:
        """Lets the controller have the cluster, and gives it its traffic step by step."""
        began = self._session.clock()
        self._cluster.set_traffic_share(0.0)
        self._cluster.hold(False)
        for number in range(1, RAMP_STEPS + 1):
            at = began + (due_ns - began) * number // RAMP_STEPS
            self._wait(at, f"traffic returns, {number - 1} of {RAMP_STEPS} parts", None)
            self._cluster.set_traffic_share(number / RAMP_STEPS)
        share = self._cluster.traffic_share()
        return (Signal("traffic", share == 1.0, f"the gateway gives it {share:.0%} of what it could take"),)
