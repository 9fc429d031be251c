"""``Recorder``: the runner's own writer; every step, fault and observation of a run goes through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from history.clock import Clock
from history.op import RUNNER, Op
from history.writer import OpWriter


class Recorder(OpWriter):
    """A writer of runner events, stamped by the run's clock, and of what observers saw (``append``)."""

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path)
        self.clock = clock

    def event(
        self,
        kind: str,
        /,
        *,
        source: str = RUNNER,
        at_ns: int | None = None,
        done_ns: int | None = None,
        ok: bool = True,
        cluster: str = "",
        error: str = "",
        **detail: Any,
    ) -> Op:
        """Records one event of the runner (or of a guard); ``at_ns`` defaults to now, ``done_ns`` to ``at_ns``.

        It failed where there is an ``error``, and where it is not ``ok``.
        """
        at = self.clock() if at_ns is None else at_ns
        op = Op(
            source=source,
            process=self.process,
            kind=kind,
            t_intended=at,
            t_sent=at,
            t_done=at if done_ns is None else done_ns,
            outcome="ok" if ok and not error else "fail",
            cluster=cluster,
            error=error,
            detail=detail,
        )
        self.append(op)
        return op
