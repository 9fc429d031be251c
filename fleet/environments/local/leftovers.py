"""What a local fleet can leave behind when harness and zygote die together, and how that is removed.

``LocalFleet.leftovers`` writes the facts down while it lives; ``restore`` needs nothing but those facts. Called through
``fleet.environments.restore_leftovers``. Idempotent; touches only processes with this fleet's marker, the rules of its
own networks, and its own work directory.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shlex
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Final

import psutil

from fleet.environments.local import addresses, black_hole
from fleet.environments.local.zygote import LOCK_NAME, MARKER
from history.errors import FleetError, Refused

_KILL_S: Final = 5.0


def restore(facts: dict[str, Any]) -> tuple[str, ...]:
    """Removes what is left; returns one line for each thing done. ``FleetError`` when something will not go.

    ``Refused`` when the run was another user's.
    """
    done = []
    work_dir = Path(str(facts["work_dir"])) if facts.get("work_dir") else None
    me, theirs = os.geteuid(), facts.get("uid")
    if me != 0 and isinstance(theirs, int) and theirs != me:
        raise _not_ours(f"the run was started by user {theirs}", work_dir)
    if ended := _end_processes(str(facts.get("fleet_id") or ""), work_dir):
        done.append(f"ended {ended} processes of the fleet")
    said = facts.get("networks")
    if me != 0 and theirs == me:
        said = []  # only root puts rules in
    networks = [one for one in said if _is_loopback(one)] if isinstance(said, list) else []
    closed = [network for network in networks if not _in_use(network) and black_hole.close_hole(network)]
    if closed:
        done.append(f"removed the firewall rules of {', '.join(closed)}")
    if work_dir is not None and _ours(work_dir):
        shutil.rmtree(work_dir, ignore_errors=True)
        if work_dir.exists():
            raise FleetError(f"{work_dir} could not be removed", hint="remove it by hand, then restore again")
        done.append(f"removed {work_dir}")
    return tuple(done)


def living(fleet_id: str, work_dir: Path | None = None) -> list[psutil.Process]:
    """Live processes of a fleet, by its id in their environment or by marker and work directory.

    ``Refused`` when one of them, by its work directory, is another user's.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            try:
                mark = process.environ().get(MARKER)
            except psutil.AccessDenied:
                if _works_in(work_dir, process):
                    raise _not_ours(f"process {process.pid} of the run is another user's", work_dir) from None
                continue
            if mark is None or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if mark == fleet_id or _works_in(work_dir, process):
                found.append(process)
    return found


def _works_in(work_dir: Path | None, process: psutil.Process) -> bool:
    """Is one of its arguments, or what stands after ``=`` in one, the directory or something in it?"""
    if work_dir is None:
        return False
    paths = [Path(part.rpartition("=")[2]) for part in process.cmdline()]
    return any(work_dir in (path, *path.parents) for path in paths)


def _not_ours(why: str, work_dir: Path | None) -> Refused:
    run = f" {shlex.quote(str(work_dir.parent))}" if work_dir is not None else ""
    return Refused(f"{why}: you may neither see nor end all that it left", hint=f"sudo blackstart restore{run}")


def _end_processes(fleet_id: str, work_dir: Path | None) -> int:
    """SIGKILL to all, again for those that were forked meanwhile; how many there were."""
    ended: set[int] = set()
    deadline = time.monotonic() + _KILL_S
    while alive := living(fleet_id, work_dir):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                ended.add(process.pid)
        psutil.wait_procs(alive, timeout=0.5)
        if time.monotonic() > deadline:
            raise FleetError(
                f"{len(alive)} processes of the fleet do not end: {', '.join(str(one.pid) for one in alive)}",
                hint="look at them with ps, then restore again",
            )
    return len(ended)


def _is_loopback(said: object) -> bool:
    """Is it a network that a fleet could have had? A damaged journal may say anything."""
    with contextlib.suppress(ValueError):
        return isinstance(said, str) and ipaddress.IPv4Network(said).is_loopback
    return False


RELEASE_S = 1.0
"""A process that was killed a moment ago holds its fleet's number until the kernel has cleared it away."""


def _in_use(network: str) -> bool:
    """Has another fleet taken this fleet's number meanwhile? Then rules of that number are not ours to touch."""
    number = network.split(".")[1]
    deadline = time.monotonic() + RELEASE_S
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((f"127.{number}.255.1", addresses.LOCK_PORT))
                return False
            except OSError:
                if time.monotonic() > deadline:
                    return True
        time.sleep(0.01)


def _ours(work_dir: Path) -> bool:
    """A fleet's work directory has its lock file, or stands in a run directory under its usual name."""
    if not work_dir.is_dir() or work_dir.is_symlink():
        return False
    return (work_dir / LOCK_NAME).is_file() or (
        work_dir.name == "fleet" and (work_dir.parent / "journal.jsonl").is_file()
    )
