"""``go_first``: the measuring instrument goes first on the cores that it shares with what it measures."""

from __future__ import annotations

import os


def go_first() -> str:
    """Takes the real-time class for the calling thread, not for what it starts; says what came of it. Never raises.

    What is measured must not be able to delay who measures it on the same cores. Root (or CAP_SYS_NICE) gets the
    round-robin class at its lowest priority; everybody else runs as they are, and the recorded send lag says whether
    that was enough (`benchmarks/load_capacity.py --rate 200 --hogs 10` prints it).
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (OSError, AttributeError) as error:
        return f"scheduled as everybody else ({error})"
    return "scheduled first (SCHED_RR)"
