"""``FleetState``: what is known of the kind fleet of this host between two commands, as one file of this user's.

Made by ``fleet up`` before it makes anything, read by everybody, removed by ``fleet down``. The folder also holds
kubeconfigs, weights, logs and the marker that every node container carries.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from fleet.environments.kind.topology import ClusterTopology, topology
from fleet.spec import FleetSpec
from history.errors import FleetError


def state_root(env: Mapping[str, str] = os.environ) -> Path:
    """$BLACKSTART_STATE, else $XDG_STATE_HOME/blackstart, else ~/.local/state/blackstart; then ``kind``."""
    if own := env.get("BLACKSTART_STATE"):
        return Path(own).absolute() / "kind"
    home = env.get("XDG_STATE_HOME") or Path(env.get("HOME") or Path.home(), ".local", "state")
    return Path(home).absolute() / "blackstart" / "kind"


def new_id() -> str:
    """For a fleet that will be made: chosen before, so that what is left of it is known as its own."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class FleetState:
    """See the module docstring. ``complete`` False: creation has not ended, or ended badly."""

    fleet_id: str
    spec: FleetSpec
    token: str = field(repr=False)
    node_image: str
    serving_image: str
    kind: str
    subnet: str
    host: str
    """The host's address in the fleet's network."""
    gateway_port: int
    ports: dict[str, int]
    addresses: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    host_pid: int = 0
    host_started: int = 0

    @property
    def clusters(self) -> tuple[ClusterTopology, ...]:
        """Names, subnets and machines of its clusters."""
        return topology(self.spec)


class Folder:
    """The fleet's folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or state_root()
        self.file = self.root / "fleet.json"
        self.logs = self.root / "logs"
        self.work = self.root / "work"
        self.marker = self.root / "marker"

    def kubeconfig(self, cluster: str) -> Path:
        """The kubeconfig of one cluster; the user's own is never touched."""
        return self.root / f"{cluster}.kubeconfig"

    def read(self) -> FleetState | None:
        """None when there is no fleet; ``FleetError`` when the file is damaged."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=FleetState)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise FleetError(
                f"the fleet's file {self.file} cannot be read: {error}",
                hint="blackstart fleet down --env kind removes what carries its marker",
            ) from error

    def write(self, state: FleetState) -> FleetState:
        """Replaces the file, all at once; only its owner may read it."""
        self.root.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        part.replace(self.file)
        return state

    def change(self, **changes: object) -> FleetState:
        """Reads, changes fields, writes; ``FleetError`` when there is no fleet."""
        state = self.read()
        if state is None:
            raise FleetError("there is no kind fleet", hint="blackstart fleet up --env kind")
        return self.write(replace(state, **changes))  # type: ignore[arg-type]
