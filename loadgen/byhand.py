"""``ByHand``: what stands in for the runner when Locust is started by hand. Called by ``locustfile.py`` only.

It makes the run directory (or opens a prepared one), starts the load when every worker is ready, stops it at the end
of the plan and writes the events that the runner would: so ``blackstart analyze`` reads such a run like any other.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from history.clock import Anchor, now_ns
from history.errors import UsageError
from history.op import LOAD_DRAINED, LOAD_START, LOAD_STOP, RUNNER, Op, Outcome
from history.records import FleetFacts, LoadSpec, Mix, MixEntry, ModelFacts, RunHeader, Target
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.control import ControlFiles
from loadgen.schedule import draw

DEFAULT_ENTRY = "http://127.0.0.1:8080"
PROCESS = "by-hand"


class ByHand:
    """One run started by hand."""

    def __init__(self, run: RunDirectory, horizon_s: float) -> None:
        self.run, self._horizon_s, self._files = run, horizon_s, ControlFiles(run)
        self._writer: OpWriter | None = None

    @classmethod
    def open(cls, options: Any, host: str | None) -> ByHand:
        """The run that the options ask for. ``UsageError`` where they contradict themselves or nothing answers."""
        if not options.run:
            return cls(prepare(options, host), options.seconds)
        run = RunDirectory(Path(options.run).resolve())
        return cls(run, run.read_header().load.horizon_s)

    def begin(self) -> None:
        """Starts the load a moment from now, until the end of its plan; later calls do nothing."""
        if self._writer is None:
            self._writer = OpWriter(self.run.ops_file(PROCESS))
            self._event(LOAD_START, self._files.begin(for_s=self._horizon_s))

    def halt(self) -> None:
        """Moves the stop to a moment from now, if the load still runs."""
        if self._writer is not None:
            self._files.stop()

    def end(self, *, all_drained: bool) -> None:
        """Records the stop (now, where every worker died before it) and the drain."""
        if self._writer is not None:
            now = now_ns()
            self._event(LOAD_STOP, min(self._files.read().stop_ns or now, now))
            self._event(LOAD_DRAINED, now, "ok" if all_drained else "fail")
            self._writer.close()
            self._writer = None
            self._files.clear()

    def _event(self, kind: str, t_ns: int, outcome: Outcome = "ok") -> None:
        assert self._writer is not None
        self._writer.append(
            Op(source=RUNNER, process=PROCESS, kind=kind, t_intended=t_ns, t_done=t_ns, outcome=outcome)
        )


def prepare(options: Any, host: str | None) -> RunDirectory:
    """Makes the run directory of a load without a drill: header and plan. Nothing in it is asserted."""
    entry = (options.entry or host or DEFAULT_ENTRY).rstrip("/")
    mix = parse_models(options.models) if options.models else _ask_models(entry)
    load = LoadSpec(
        shape=options.load_shape,
        rate_rps=options.rate,
        good_within_ms=options.good_within_ms,
        connect_timeout_s=options.connect_timeout_s,
        total_timeout_s=options.total_timeout_s,
        horizon_s=options.seconds,
        seed=options.seed,
        rate_from_rps=options.rate_from,
        ramp_s=options.ramp_s,
    )
    run = RunDirectory(Path(options.out).resolve() / f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    return make_run(run, Target(entry, options.auth_env), mix, load)


def make_run(run: RunDirectory, target: Target, mix: Mix, load: LoadSpec, **changes: Any) -> RunDirectory:
    """Writes the header and the plan of a load without a drill; ``changes``: other values of the header."""
    schedule = draw(load, mix)
    models = tuple(ModelFacts(e.model, e.kind, "", 0, 0, 0, 0, e.share) for e in mix.entries)
    header = RunHeader(
        run_id=run.path.name,
        drill=PROCESS,
        description="A load started by hand with locust: no drill, no fault, nothing asserted.",
        seed=load.seed,
        environment=PROCESS,
        anchor=Anchor.take(),
        command_line=tuple(sys.argv),
        versions=(("python", platform.python_version()),),
        commit="",
        dirty=False,
        host=(("system", platform.platform()),),
        fleet=FleetFacts(PROCESS, (), models, ()),
        target=target,
        mix=mix,
        load=load,
        steps=(),
        faults=(),
        objectives=(),
    )
    run.write_header(replace(header, **changes))
    run.write_schedule(schedule)
    return run


def parse_models(text: str) -> Mix:
    """``NAME[:KIND][=SHARE],…`` -> mix; shares are scaled to sum to 1, a missing share counts as 1."""
    entries: list[MixEntry] = []
    problems: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name_kind, _, share = word.partition("=")
        name, _, kind = name_kind.partition(":")
        try:
            entries.append(
                msgspec.convert({"model": name, "kind": kind or "chat", "share": share or 1}, MixEntry, strict=False)
            )
            if not 0 < entries[-1].share < math.inf:
                raise ValueError(f"the share {share!r} must be a number above 0")
        except ValueError as error:
            problems.append(f"{word!r}: {error}")
    if problems or not entries:
        raise UsageError(
            f"--models {text!r} is wrong: {'; '.join(problems) or 'it names no model'}",
            hint="write NAME[:chat|completion|embedding][=SHARE], separated by commas",
            problems=tuple(problems),
        )
    total = sum(entry.share for entry in entries)
    return Mix(tuple(replace(entry, share=entry.share / total) for entry in entries))


def _ask_models(entry: str) -> Mix:
    """Asks the entry point which models it has; all are taken for chat models, in equal shares."""
    try:
        with urllib.request.urlopen(f"{entry}/v1/models", timeout=5) as answer:
            names = [str(model["id"]) for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{entry}/v1/models does not say which models there are: {error}",
            hint="name them with --models NAME[:chat|completion|embedding][=SHARE],…, and the service with --entry URL",
        ) from error
    return parse_models(",".join(names))
