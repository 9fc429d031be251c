"""``Owner``: the process that answers for a run: is it alive, is it here, and what can be done about it.

Written into locks and journals; asked by whoever would start, heal or take away something. It ends nobody.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from history.clock import boot_id


@dataclass(frozen=True)
class Owner:
    """A process that cannot be mistaken for a later one of the same number. ``host`` empty: this one."""

    pid: int
    started: int
    boot_id: str
    host: str = ""

    @classmethod
    def of(cls, pid: int) -> Owner:
        """The owner record of a live process; ``started`` 0 when there is none."""
        return cls(pid, start_of(pid), boot_id(), socket.gethostname())

    @property
    def here(self) -> bool:
        """Is it of this host? Elsewhere nothing can be seen of it."""
        return self.host in ("", socket.gethostname())

    @property
    def alive(self) -> bool:
        """Is it not known to be dead? Stopped (SIGSTOP) or out of sight is alive; a zombie is dead."""
        if not self.here:
            return True
        return self.boot_id == boot_id() and self.started != 0 and start_of(self.pid) == self.started

    def next_step(self, run: str) -> str:
        """What to do about a run whose owner is not known to be dead, so that it is healed."""
        restore = f"`blackstart restore {shlex.quote(run)}`"
        if not self.here:
            return f"it is held on {self.host}: look, and restore, there ({restore})"
        if self.stopped:
            return f"it is stopped: `kill -CONT {self.pid}`, and it goes on; or `kill -9 {self.pid}`, then {restore}"
        return (
            f"end it first: `touch {shlex.quote(run + '/stop')}`, or Ctrl-C where it runs; it heals by itself; "
            f"if it hangs: `kill -9 {self.pid}`, then {restore}"
        )

    @property
    def stopped(self) -> bool:
        """Does it stand still (SIGSTOP), so that it can neither go on nor heal?"""
        with contextlib.suppress(psutil.Error):
            return self.here and self.alive and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        return False


def user() -> str:
    """Who runs this, as far as the system knows; with sudo, who asked it to."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo by {behind})" if behind and behind != name else name


def start_of(pid: int) -> int:
    """When a live process began, in units of this boot that no step of the wall clock changes; 0 when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        pass
    if Path("/proc/self/stat").exists():
        return 0
    try:
        process = psutil.Process(pid)
        return 0 if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time())
    except psutil.Error:
        return 0
