"""Cobalt is cut off but alive: it thinks that it serves. Its models move, and its return splits no brain.

Needs real Kubernetes: --env kind (in `local` a cluster's own network cannot be cut while it lives; `plan` says so).
Not ready: --fleet small:decision_s=60 (people take a minute before anything moves: users wait for them).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, Partition, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="partition",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=60, good_within_ms=1000),
    steps=[
        Baseline(seconds=10),
        Inject(Partition("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=40),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=60, then_s=5),
    ],
    objectives=[
        o.recovered(
            within_s=20,
            playbook="Users still reach for the cut-off cluster: connect time-outs of the gateway are too long, or "
            "detection waits for the Kubernetes node lease. Take its share at the gateway to 0.",
        ),
        o.placed_twice(
            within_s=10,
            playbook="Two sides serve one model after the return: a split brain. Keep traffic on the survivors, delete "
            "what the returned cluster still runs, then fail back model by model.",
        ),
        o.no_dip(
            window="failback",
            playbook="The return hurt: look which side answered (x-served-by) and whether a surrogate ended before its "
            "home replica was routed to.",
        ),
    ],
)
