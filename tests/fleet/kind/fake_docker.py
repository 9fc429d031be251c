"""A Docker that is a script, for the tests of this folder."""

from __future__ import annotations

import json
from typing import Any

from fleet.environments.kind import faults
from history.errors import FleetError


class FakeDocker:
    """Containers with a state and an address; remembers every call that changes something."""

    def __init__(self, marker: str) -> None:
        self.boxes: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, ...]] = []
        self.rules: set[str] = set()
        self.marker = marker

    def add(self, name: str, cluster: str, address: str, marker: str | None = None) -> None:
        mark = self.marker if marker is None else marker
        self.boxes[name] = {
            "Name": f"/{name}",
            "Config": {"Labels": {"io.x-k8s.kind.cluster": cluster}},
            "State": {"Status": "running", "StartedAt": "2026-11-24T12:00:00.5Z"},
            "NetworkSettings": {"Networks": {"blackstart": {"IPAddress": address}}},
            "Mounts": [{"Destination": "/blackstart", "Source": mark}] if mark else [],
        }

    def __call__(self, *words: str, timeout_s: float = 0.0) -> str:
        verb, names = words[0], [word for word in words[1:] if word in self.boxes]
        if verb == "ps":
            label = next(word for word in words if word.startswith("label="))
            _, _, cluster = label.removeprefix("label=").partition("=")
            of = [n for n, b in self.boxes.items() if cluster in ("", b["Config"]["Labels"]["io.x-k8s.kind.cluster"])]
            return "\n".join(of)
        if verb == "inspect":
            return json.dumps([self.boxes[name] for name in names])
        if words[:2] == ("network", "inspect"):
            raise FleetError("no such network", hint="")
        self.calls.append(words)
        if verb == "network":
            networks = {"blackstart": {"IPAddress": words[3]}} if words[1] == "connect" else {}
            self.boxes[words[-1]]["NetworkSettings"]["Networks"] = networks
        if verb == "exec":
            return self._exec(words[1], words[-1])
        after = {"kill": "exited", "start": "running", "pause": "paused", "unpause": "running"}
        for name in names:
            if verb == "rm":
                del self.boxes[name]
            elif verb in after:
                self.boxes[name]["State"]["Status"] = after[verb]
        return ""

    def _exec(self, name: str, script: str) -> str:
        if script == faults.SHOW:
            return faults.HOLE if name in self.rules else ""
        (self.rules.add if "-j DROP" in script else self.rules.discard)(name)
        return ""

    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls]
