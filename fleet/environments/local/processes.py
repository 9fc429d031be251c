"""Forking: how every process of a local fleet begins, and why none outlives its parent.

Used by the zygote, by control planes and by node-inits, all of them single-threaded when they fork. A child gets
default signal handlers, its own log as standard output and error, no descriptor but those given, and dies with its
parent: by PR_SET_PDEATHSIG on Linux, by a thread that watches the parent elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_MAX_FD: Final = 256
LINUX: Final = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def fork(entry: Callable[[], None], *, log: Path, group: bool = False, keep: Collection[int] = ()) -> int:
    """Forks a child that runs ``entry`` and ends; returns its pid. ``group``: it leads a process group of its own.

    ``keep``: descriptors that stay open in it. The child exits 0 when ``entry`` returns, 1 when it raises (the
    traceback is in ``log``).
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        if group:  # in both processes: whoever comes first, the group exists before anybody kills it
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        if group:
            os.setpgid(0, 0)
        die_with(parent)
        _fresh(log, keep)
        entry()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def die_with(parent: int) -> None:
    """This process is killed when ``parent`` (its parent now) dies; at once when it already has."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Orphans below this process become its children, so that it can reap them (Linux; elsewhere init does)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log; says so when there are none."""
    try:
        text = path.read_text(errors="replace").rstrip()
    except OSError:
        text = ""
    return "\n".join(text.splitlines()[-lines:]) or f"(nothing in {path.name})"


def _fresh(log: Path, keep: Collection[int]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    if _libc is not None:
        _libc.prctl(_PR_SET_NAME, log.stem.encode()[:15])  # so that ps and psutil tell who is who
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for fd in range(3, _MAX_FD):
        if fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
