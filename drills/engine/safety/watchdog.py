"""The dead man: a detached process beside a run that restores when the harness has died and nobody came.

    python -m drills.engine.safety.watchdog RUN [SECONDS]

Started by ``Custody``. It looks at the run's lock only: no lock, nothing to do, it ends; owner alive (also when
stopped), it waits; owner dead for ``SECONDS`` (longer than the fleet's own clean-up takes), it restores, and again
when that failed. It never touches a run whose harness lives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from drills.engine.safety.lock import Lock, Locks, state_dir
from history.errors import BlackstartError

AFTER_S = 10.0
POLL_S = 0.25
TRIES = 6


def watch(
    held: Callable[[], tuple[Lock, ...]],
    restore: Callable[[], None],
    after_s: float = AFTER_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Waits for the end of the run; True when it had to restore. The error of the last try when none succeeded."""
    dead_since: float | None = None
    tries = 0
    while locks := held():
        if any(lock.owner.alive for lock in locks):
            dead_since = None
        elif dead_since is None:
            dead_since = clock()
        elif clock() - dead_since >= after_s:
            tries, dead_since = tries + 1, None
            try:
                restore()
                return True
            except Exception as error:  # a full disk, an engine that is not there yet, somebody else at it
                if tries == TRIES:
                    raise
                print(f"Error: {error}\nit is tried again", file=sys.stderr, flush=True)
        sleep(POLL_S)
    return False


def main(argv: list[str]) -> int:
    """See the module docstring."""
    run, after_s = Path(argv[1]), float(argv[2]) if len(argv) > 2 else AFTER_S
    state = state_dir()
    locks = Locks(state)

    by = f"watchdog: the harness died, nobody came within {after_s:g} s"

    def heal() -> None:
        from drills.engine.safety.restore import restore  # only now: a waiting watchdog stays small

        for line in restore(run, state, by=by, command_line=tuple(sys.orig_argv)):
            print(line, flush=True)

    try:
        watch(lambda: locks.of_run(run), heal, after_s)
    except BlackstartError as error:
        print(f"Error: {error.message}\nNext: {error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
