"""The measuring instrument goes first: what it measures must not be able to delay it on the same cores.

Called once by the load process and by the probers. Root (or CAP_SYS_NICE) gets the round-robin real-time class, at its
lowest priority; everybody else runs as they are, and the recorded send lag says whether that was enough
(`benchmarks/load_capacity.py --rate 200 --hogs 10` prints it with ten busy loops beside the load).
"""

from __future__ import annotations

import os


def go_first() -> str:
    """Takes the real-time class for this process, not for its children; says what came of it. Never raises."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError) as error:
        return f"scheduled as everybody else ({error})"
    return "scheduled first (SCHED_RR)"
