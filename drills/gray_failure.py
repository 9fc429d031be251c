"""Cobalt freezes: every port takes connections, no answer ever comes. Checks that only connect see nothing wrong.

The worst signature for a router: nothing is refused, everything hangs. Who asks for an *answer* notices within two
checks; who asks for a TCP connection sends a third of the users into the ice until it thaws.
Not ready: --fleet small:answers=0 (gateway and allocator check connections only).
"""

from blackstart import Baseline, Drill, Freeze, Inject, Observe, OpenLoop, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="gray-failure",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=100, good_within_ms=500, total_timeout_s=3),
    steps=[
        Baseline(seconds=5),
        Inject(Freeze("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=18),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=20, then_s=2),
    ],
    objectives=[
        o.detected(
            within_s=4,
            playbook="Nobody noticed. Do the checks wait for an answer, with a time-out? A TCP check passes on "
            "a frozen machine. Declare the cluster lost by hand: take its share at the gateway to 0.",
        ),
        o.recovered(
            within_s=8,
            playbook="Users hang. Cut the cluster off by force (power, or its share at the gateway): a dead cluster is "
            "better than a frozen one. Then lower read time-outs and ask for answers in health checks.",
        ),
        o.no_dip(
            window="failback",
            playbook="The thaw hurt: requests that hung were answered late, or surrogates ended too early. Drain the "
            "thawed cluster first, then let it back in.",
        ),
        o.placed_twice(
            within_s=4,
            playbook="The thawed cluster still runs what was moved away. Let the allocator end the surrogates, or "
            "delete them by hand; never both sides.",
        ),
    ],
)
