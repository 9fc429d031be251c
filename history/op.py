"""``Op``: one record of something that one process did or saw, on the run's one clock.

Requests, probes, faults, controller decisions, replica events and Prometheus answers are all ops; the history of a
run is nothing but its ops. Writers append them, the reader merges them, assertions and reports read them.
An op is never changed after it was written.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

NEVER: Final = -1
"""The value of a time that was not reached (no first byte, never sent)."""

Outcome = Literal["ok", "fail", "unknown"]

# Sources: who made the op. Only LOAD ops count in error rates; probers carry their own source (DESIGN 3.4).
LOAD: Final = "load"
CANARY: Final = "canary"
CLUSTER_PROBER: Final = "cluster-prober"
RUNNER: Final = "runner"
OBSERVER: Final = "observer"
CONTROLLER: Final = "controller"
GUARD: Final = "guard"
PROMETHEUS: Final = "prometheus"

REQUEST_SOURCES: Final = (LOAD, CANARY, CLUSTER_PROBER)
"""Sources whose ops are read into columns; all other ops are events, kept as objects."""

# Kinds of load ops.
CHAT: Final = "chat"
COMPLETION: Final = "completion"
EMBEDDING: Final = "embedding"
ModelKind = Literal["chat", "completion", "embedding"]

# Kinds of prober ops.
PROBE_ENTRY: Final = "probe.entry"
PROBE_DATA: Final = "probe.data"
PROBE_API: Final = "probe.api"

# Kinds of runner events. ``cluster`` names the victim where there is one.
LOAD_START: Final = "load.start"
"""t_intended = the instant that offset 0 of the schedule stands for."""
LOAD_STOP: Final = "load.stop"
"""t_intended = no send was due at or after this instant."""
LOAD_DRAINED: Final = "load.drained"
"""The load process has ended: everything that it will ever record is on disk. outcome fail: it died early."""
STEP_START: Final = "step.start"
STEP_END: Final = "step.end"
FAULT_INJECT: Final = "fault.inject"
"""t_intended = t_sent = just before the injection call: a recovery's clock starts here; t_done = it returned."""
FAULT_VERIFIED: Final = "fault.verified"
"""outcome ok when every independent signal says so; detail["signals"] = [{name, ok, seen}]."""
FAULT_HEAL: Final = "fault.heal"
"""t_intended = just before the restore call; the failback window starts here."""
FAULT_HEALED: Final = "fault.healed"
"""outcome ok when the cluster was verified back; detail["signals"] as for FAULT_VERIFIED."""
PROVISIONED: Final = "provisioned"
"""A stage of a cluster's restore: t_intended = the restore call, t_done = when it was first verified; detail["stage"],
detail["seen"]. outcome fail: not verified by then."""
RESTORE_STAGE: Final = "restore.stage"
"""A stage of a restore as people live through it: t_intended = it began, t_done = it ended; detail["name"], ["does"],
["seconds"] as declared, ["refused"]: the declared answer is no, ["signals"] as for FAULT_VERIFIED. outcome ok: the
check came out as declared."""
FLEET_READY: Final = "fleet.ready"
INTERRUPTED: Final = "interrupted"
PROCESS_DIED: Final = "process.died"
NOTED: Final = "noted"
"""Something worth telling on which no verdict rests; detail["text"]."""
CLOCK_STEPPED: Final = "clock.stepped"
"""The wall clock was stepped by detail["step_s"] during the run: what Prometheus stamped is misplaced, nothing else."""
RUNNER_ALIVE: Final = "runner.alive"
"""The runner looked at the run: what the processes of the run did until then was not yet the harness's own death."""
RUN_END: Final = "run.end"
"""The runner's last op: everything was healed, drained and stopped. Missing: the harness died before."""

# Kinds of observer events: what a cluster says of its model replicas, stamped on receipt (t_done).
# ``detail["t_emitted"]`` is the emitter's own monotonic stamp where it is on the same host: the event happened
# in [t_emitted, t_done].
REPLICA_CREATED: Final = "replica.created"
REPLICA_PENDING: Final = "replica.pending"
"""detail["reason"] says why no node can take it."""
REPLICA_SCHEDULED: Final = "replica.scheduled"
REPLICA_STARTED: Final = "replica.started"
REPLICA_WEIGHTS: Final = "replica.weights"
"""Weights are in GPU memory; ``weights`` = tier they came from, detail["bytes"], detail["seconds"]."""
REPLICA_READY: Final = "replica.ready"
REPLICA_FAILED: Final = "replica.failed"
REPLICA_GONE: Final = "replica.gone"
WATCH_GAP: Final = "watch.gap"
"""The watch of ``cluster`` was broken from t_intended to t_done: events in between may be missing or late."""

# Kinds of controller events.
DETECTED: Final = "detected"
"""The controller holds ``cluster`` to be lost."""
DECIDED: Final = "decided"
"""The controller decided to re-allocate ``model`` (one op a model)."""
UNPLACEABLE: Final = "unplaceable"
"""The controller found no place for ``model``; detail["reason"] with the numbers."""
RETURNED: Final = "returned"
"""The controller holds ``cluster`` to be back."""
FAILBACK: Final = "failback"
"""The controller moved ``model`` back to ``cluster``."""

# Kinds of Prometheus events: detail = {"name", "query", "series": [{"labels": {}, "t_ns": [], "values": []}]}.
QUERY: Final = "query"

# Where an answer's weights came from (DESIGN 3.7).
RESIDENT: Final = "resident"
LOCAL: Final = "local"
PEER: Final = "peer"
STORE: Final = "store"

# Errors: short categories of a failed or unknown request, for tables. HTTP answers are "http-429" and so on.
REFUSED: Final = "refused"
UNREACHABLE: Final = "unreachable"
CONNECT_TIMEOUT: Final = "connect-timeout"
TIMEOUT: Final = "timeout"
RESET: Final = "reset"
CUT: Final = "cut-stream"
BAD_BODY: Final = "bad-body"
DROPPED: Final = "dropped"
"""Scheduled and never sent (outcome unknown)."""
NO_RECORD: Final = "no-record"
"""Scheduled, and no process left a record of it (outcome unknown, made at analysis)."""
NOT_DRAINED: Final = "not-drained"
"""Sent, and still in flight when the drain ended (outcome unknown)."""


class Op(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One record. Times are monotonic nanoseconds of the run's host, ``NEVER`` where not reached.

    ``ok`` = answered completely and correctly; whether it was also *good* (in time) is decided at analysis.
    ``seq`` is the index in the schedule for load ops, the probe's number for probers, else ``NEVER``.
    ``cluster``/``node``/``replica`` say who served (requests) or who is meant (events).
    Latency is ``t_done - t_intended``; send lag is ``t_sent - t_intended``.
    """

    source: str
    process: str
    kind: str
    t_intended: int
    outcome: Outcome
    t_sent: int = NEVER
    t_first_byte: int = NEVER
    t_done: int = NEVER
    seq: int = NEVER
    model: str = ""
    cluster: str = ""
    node: str = ""
    replica: str = ""
    error: str = ""
    status: int = 0
    weights: str = ""
    fallback: str = ""
    """The other model that answered instead (``x-fallback``): a degraded answer, which is no good one."""
    tokens_expected: int = 0
    tokens: int = 0
    detail: dict[str, Any] = {}


encode = msgspec.json.Encoder().encode
"""One op -> JSON bytes without a newline."""

decode = msgspec.json.Decoder(Op).decode
"""JSON bytes -> op; raises ``msgspec.MsgspecError`` on a damaged line."""
