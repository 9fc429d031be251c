"""A pod as a replica: how far it is, by what the API says of it, and which events lie between two looks at it.

Pure; used by the watch. After a node lost power the API goes on saying what was true before, until the kubelet reports
again: a container that began before its node did is not running, whatever its status says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fleet.environments.kind.manifests import GPU, HINT_ANNOTATION, PORT_ANNOTATION
from fleet.environments.kind.topology import MODEL_LABEL, REPLICA_LABEL
from history.op import (
    REPLICA_CREATED,
    REPLICA_FAILED,
    REPLICA_GONE,
    REPLICA_PENDING,
    REPLICA_READY,
    REPLICA_SCHEDULED,
    REPLICA_STARTED,
)

PENDING, SCHEDULED, STARTED, READY, FAILED, GONE = "Pending", "Scheduled", "Started", "Ready", "Failed", "Gone"
_RANK: Final = {PENDING: 0, FAILED: 0, SCHEDULED: 1, STARTED: 2, READY: 3}
_KIND: Final = {1: REPLICA_SCHEDULED, 2: REPLICA_STARTED, 3: REPLICA_READY}
_BROKEN: Final = (
    "CrashLoopBackOff",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)


@dataclass(frozen=True)
class Pod:
    """One look at a pod. ``node``: its name in the fleet's description, "" while it is bound to none."""

    uid: str
    replica: str
    model: str
    node: str
    phase: str
    reason: str = ""
    url: str = ""
    gpus: int = 0
    hint: str = ""
    created: str = ""


def pod_of(raw: Mapping[str, Any], node_names: Mapping[str, str], boots: Mapping[str, float]) -> Pod:
    """A pod of the API's JSON. ``node_names``: container -> node; ``boots``: container -> when it began, epoch s."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status", {})
    labels, noted = metadata.get("labels", {}), metadata.get("annotations", {})
    container = spec.get("nodeName", "")
    limits = spec["containers"][0].get("resources", {}).get("limits", {})
    phase, reason = _phase(metadata, status, container, boots.get(container, 0.0))
    host, port = status.get("hostIP", ""), noted.get(PORT_ANNOTATION, "")
    return Pod(
        uid=metadata["uid"],
        replica=labels.get(REPLICA_LABEL, ""),
        model=labels.get(MODEL_LABEL, ""),
        node=node_names.get(container, container),
        phase=phase,
        reason=reason,
        url=f"http://{host}:{port}" if host and port else "",
        gpus=int(limits.get(GPU, 0)),
        hint=noted.get(HINT_ANNOTATION, ""),
        created=metadata.get("creationTimestamp", ""),
    )


def _phase(metadata: Mapping[str, Any], status: Mapping[str, Any], container: str, boot: float) -> tuple[str, str]:
    if metadata.get("deletionTimestamp"):
        return GONE, ""
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    if not container:
        return PENDING, conditions.get("PodScheduled", {}).get("message", "")
    if status.get("phase") == "Failed":
        return FAILED, status.get("message", "") or status.get("reason", "")
    state: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    waiting = state.get("state", {}).get("waiting", {})
    if waiting.get("reason") in _BROKEN:
        ended = state.get("lastState", {}).get("terminated", {})
        last = f"; it ended with code {ended['exitCode']}" if "exitCode" in ended else ""
        return FAILED, f"{waiting['reason']}: {waiting.get('message', '')}{last}"
    running = state.get("state", {}).get("running")
    if running is None or epoch(running["startedAt"]) + 1 < boot:  # the API's stamps are whole seconds, rounded down
        return SCHEDULED, ""
    ready = state.get("ready") and conditions.get("Ready", {}).get("status") == "True"
    return (READY if ready else STARTED), ""


def events(before: Pod | None, now: Pod) -> tuple[tuple[str, dict[str, Any]], ...]:
    """(kind, detail) of what happened to a pod between two looks, in order; ``before`` None: it was not there."""
    if now.phase == GONE:
        return () if before is None or before.phase == GONE else ((REPLICA_GONE, {}),)
    found: list[tuple[str, dict[str, Any]]] = [(REPLICA_CREATED, {})] if before is None else []
    if now.phase == PENDING:
        if now.reason and (before is None or before.reason != now.reason):
            found.append((REPLICA_PENDING, {"reason": now.reason}))
        return tuple(found)
    had = -1 if before is None else _RANK.get(before.phase, 0)
    if now.phase == FAILED:
        if before is None or before.phase != FAILED:
            found.append((REPLICA_FAILED, {"reason": now.reason, "final": False}))
        return tuple(found)
    rank = _RANK[now.phase]
    if before is not None and before.phase == READY and rank < had:
        found.append((REPLICA_FAILED, {"reason": f"{now.replica} is no longer ready", "final": False}))
    for step in range(max(had, 0) + 1, rank + 1):
        found.append((_KIND[step], {"url": now.url} if step == _RANK[READY] else {"gpus": now.gpus}))
    return tuple(found)


def epoch(stamp: str) -> float:
    """Seconds since 1970 of a stamp of the API or of Docker (which has nine digits behind the point)."""
    whole, dot, rest = stamp.removesuffix("Z").partition(".")
    base = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return base + (float(f"0.{rest}") if dot else 0.0)
