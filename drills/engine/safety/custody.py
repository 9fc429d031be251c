"""``Custody``: what a run owes to the world outside it: lock, journal, ledger, announcements, dead man.

A context manager around the whole run. It takes the lock before anything is made and lets go when everything is healed
and stopped; a run that could not be healed keeps its lock, so that the next one is refused. It heals nothing itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from drills.engine.safety.journal import Journal
from drills.engine.safety.ledger import Entry, Ledger, Webhook
from drills.engine.safety.lock import Locks, state_dir
from drills.engine.safety.owner import Owner
from drills.engine.safety.plan import Plan
from fleet.environments import lock_targets
from history.errors import RecordingError
from history.records import FaultMark
from history.rundir import RunDirectory
from loadgen.process import Child

HURTS = ("cut control plane", "tear down")
"""Stages of a restore that are faults themselves."""


class Custody:
    """See the module docstring. ``facts``: what the environment needs to heal this run without us."""

    def __init__(
        self,
        plan: Plan,
        directory: RunDirectory,
        command_line: tuple[str, ...],
        facts: dict[str, Any],
        *,
        webhook: str = "",
        state: Path | None = None,
    ) -> None:
        self._plan, self._directory, self._facts = plan, directory, facts
        self._state = state or state_dir()
        self._locks = Locks(self._state)
        self._journal = Journal(directory.journal)
        radius = plan.drill.blast_radius
        self._ledger = Ledger(
            self._state,
            Entry(
                drill=plan.drill.name,
                run=str(directory.path),
                environment=plan.environment,
                blast_radius=f"at most {radius.clusters} clusters at once, at least {radius.survivors} survive",
                command_line=command_line,
            ),
        )
        self._webhook = Webhook(webhook, self._not_announced)
        self._watchdog = Child("the watchdog", directory.logs / "watchdog.log")
        self._exposed = False
        self.outcome = "ended early"
        self.notes: tuple[str, ...] = ()

    def __enter__(self) -> Custody:
        """Takes the lock; ``Refused`` before anything was made. ``notes`` says whose lock was taken over."""
        plan = self._plan
        self.notes = self._locks.take(
            lock_targets(plan.environment, plan.drill.fleet),
            run=self._directory.path,
            drill=plan.drill.name,
            environment=plan.environment,
            facts=self._facts,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.outcome = f"{self.outcome}: {kind.__name__}"
        with contextlib.suppress(Exception):  # whatever cannot be told must not keep the lock
            self._tell("end", self.outcome, text="" if not self._exposed else "NOT healed: blackstart restore")
        self._webhook.close()
        if self._exposed:
            return  # the lock stays, and the watchdog tries once more when we are gone
        self._locks.release(self._directory.path)
        self._watchdog.kill()  # without a lock it has nothing to do

    def begin(self) -> None:
        """The run directory is there, and nothing else yet: journal, ledger, watchdog, first announcement."""
        me = Owner.of(os.getpid())
        self._journal.write("begin", owner=me, environment=self._plan.environment, facts=self._facts)
        self._exposed = True
        self._tell("start", "begun", text=self._plan.file.summary)
        command = (sys.executable, "-m", "drills.engine.safety.watchdog", str(self._directory.path))
        self._watchdog.start(*command, BLACKSTART_STATE=str(self._state))

    def died(self) -> tuple[str, ...]:
        """The dead man, if it ended by itself: nobody would heal this run after us."""
        ended = self._watchdog.ended()
        return () if ended is None else (f"watchdog: {ended}",)

    def fleet_up(self, facts: dict[str, Any]) -> None:
        """The fleet has started: the journal gets what can be known only now."""
        self._journal.write("fleet", environment=self._plan.environment, facts=facts)

    @contextlib.contextmanager
    def injection(self, mark: FaultMark, target: str) -> Iterator[None]:
        """The intent before the block, the outcome after it; a ``RecordingError`` before it means: do not inject."""
        self._journal.write("intent", fault=mark.kind, cluster=mark.cluster, target=target, signature=mark.signature)
        self._tell("inject", "begun", clusters=(target,), text=mark.label)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(RecordingError):
                self._tell("inject", "failed", clusters=(target,), text=f"{type(error).__name__}: {error}")
            raise
        self._journal.write("outcome", fault=mark.kind, cluster=mark.cluster, target=target, injected=True)
        self._tell("inject", "ok", clusters=(target,), text=mark.label)

    @contextlib.contextmanager
    def stage(self, does: str, target: str) -> Iterator[None]:
        """The same around one stage of a restore; what hurts the cluster anew is an intent of the journal too."""
        if does in HURTS:
            self._journal.write("intent", fault=does, cluster=target, target=target)
        with self._ledger.operation(f"restore: {does}", clusters=(target,)):
            yield

    def healed(self, target: str, ok: bool) -> None:
        """A fault was healed, and verified or not."""
        self._journal.write("outcome", target=target, healed=ok)
        self._tell("heal", "ok" if ok else "not verified", clusters=(target,))

    def secure(self) -> None:
        """Everything is healed and stopped; from here on nothing is left behind, whatever kills us."""
        self._exposed = False
        self._journal.write("end")

    def _tell(self, operation: str, outcome: str, *, clusters: tuple[str, ...] = (), text: str = "") -> None:
        self._webhook.announce(self._ledger.write(operation, outcome, clusters=clusters, text=text))

    def _not_announced(self, text: str) -> None:
        with contextlib.suppress(RecordingError):
            self._ledger.write("webhook", "failed", text=text)
