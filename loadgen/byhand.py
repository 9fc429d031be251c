"""``ByHand``: what stands in for the runner when Locust is started by hand. Called by ``locustfile.py`` only.

It makes the run directory (or opens a prepared one), starts the load when every worker is ready, stops it at the end
of the plan and writes the events that the runner would: so ``blackstart analyze`` reads such a run like any other.
Under the runner (``--managed``) it only opens the directory and does nothing else.
"""

from __future__ import annotations

import json
import platform
import sys
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from history.clock import NS_PER_S, Anchor, now_ns
from history.errors import UsageError
from history.op import LOAD_DRAINED, LOAD_START, LOAD_STOP, RUNNER, Op
from history.records import FleetFacts, LoadSpec, Mix, MixEntry, ModelFacts, RunHeader, Target
from history.rundir import RunDirectory
from history.writer import OpWriter
from loadgen.control import Control, ControlFiles
from loadgen.schedule import draw

KINDS = ("chat", "completion", "embedding")
DEFAULT_ENTRY = "http://127.0.0.1:8080"
_AHEAD_NS = int(0.3 * NS_PER_S)
_HALT_NS = int(0.1 * NS_PER_S)


@dataclass
class ByHand:
    """One run started by hand, or a managed one (``managed``: every method does nothing)."""

    run: RunDirectory
    managed: bool
    horizon_s: float
    _writer: OpWriter | None = None
    _control: Control = field(default_factory=Control)

    @classmethod
    def open(cls, options: Any, host: str | None) -> ByHand:
        """The run that the options ask for. ``UsageError`` where they contradict themselves or nothing answers."""
        if options.run:
            run = RunDirectory(Path(options.run).resolve())
            horizon_s = run.read_header().load.horizon_s
        else:
            run, horizon_s = prepare(options, host), options.seconds
        return cls(run, options.managed, horizon_s)

    def begin(self) -> None:
        """Starts the load a moment from now, until the end of its plan; later calls do nothing."""
        if self.managed or self._control.start_ns is not None:
            return
        start_ns = now_ns() + _AHEAD_NS
        self._control = Control(start_ns, start_ns + int(self.horizon_s * NS_PER_S))
        self._writer = OpWriter(self.run.ops_file("by-hand"))
        self._event(LOAD_START, start_ns)
        ControlFiles(self.run).write(self._control)

    def halt(self) -> None:
        """Moves the stop to a moment from now, if the load still runs."""
        stop_ns = now_ns() + _HALT_NS
        if self._writer is not None and self._control.stop_ns is not None and stop_ns < self._control.stop_ns:
            self._control = Control(self._control.start_ns, stop_ns)
            ControlFiles(self.run).write(self._control)

    def end(self, *, all_drained: bool) -> None:
        """Records the stop (now, where every worker died before it) and the drain."""
        if self.managed or self._writer is None or self._control.stop_ns is None:
            return
        now = now_ns()
        self._event(LOAD_STOP, min(self._control.stop_ns, now))
        self._writer.append(
            Op(
                source=RUNNER,
                process="by-hand",
                kind=LOAD_DRAINED,
                t_intended=now,
                t_done=now,
                outcome="ok" if all_drained else "fail",
            )
        )
        self._writer.close()
        self._writer = None
        ControlFiles(self.run).clear()

    def _event(self, kind: str, t_ns: int) -> None:
        assert self._writer is not None
        self._writer.append(Op(source=RUNNER, process="by-hand", kind=kind, t_intended=t_ns, t_done=t_ns, outcome="ok"))


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
    schedule = draw(load, mix)
    run = RunDirectory(Path(options.out).resolve() / f"by-hand-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    models = tuple(ModelFacts(e.model, e.kind, "", 0, 0, 0, 0, e.share) for e in mix.entries)
    run.write_header(
        RunHeader(
            run_id=run.path.name,
            drill="by-hand",
            description="A load started by hand with locust: no drill, no fault, nothing asserted.",
            seed=options.seed,
            environment="by-hand",
            anchor=Anchor.take(),
            command_line=tuple(sys.argv),
            versions=(("python", platform.python_version()),),
            commit="",
            dirty=False,
            host=(("system", platform.platform()),),
            fleet=FleetFacts("by-hand", (), models, ()),
            target=Target(entry, options.auth_env),
            mix=mix,
            load=load,
            steps=(),
            faults=(),
            objectives=(),
        )
    )
    run.write_schedule(schedule)
    return run


def parse_models(text: str) -> Mix:
    """``NAME[:KIND][=SHARE],…`` -> mix; shares are scaled to sum to 1, a missing share counts as 1."""
    parts: list[tuple[str, str, float]] = []
    problems: list[str] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name_kind, _, share_text = word.partition("=")
        name, _, kind = name_kind.partition(":")
        try:
            share = float(share_text or "1")
        except ValueError:
            share = 0.0
        if kind not in ("", *KINDS):
            problems.append(f"{word!r}: kind {kind!r} is none of {', '.join(KINDS)}")
        if not 0 < share < float("inf"):
            problems.append(f"{word!r}: the share {share_text!r} must be a number above 0")
        parts.append((name, kind or "chat", share))
    if problems or not parts:
        raise UsageError(
            f"--models {text!r} is wrong: {'; '.join(problems) or 'it names no model'}",
            hint="write NAME[:chat|completion|embedding][=SHARE], separated by commas",
            problems=tuple(problems),
        )
    total = sum(share for *_, share in parts)
    return Mix(tuple(MixEntry(name, _kind(kind), share / total) for name, kind, share in parts))


def _kind(word: str) -> Any:
    return word


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
