"""Cobalt's cables are pulled: every node runs on, reaches nobody, and comes back as if nothing had been.

Needs real Kubernetes: --env kind (in `local` a node has no cable; `plan` says so). Unlike in `partition`, the nodes
lose each other too: the control plane sees its workers go.
Not ready: --fleet small:decision_s=60 (people take a minute before anything moves: users wait for them).
"""

from blackstart import Baseline, CablePull, Drill, Inject, Observe, OpenLoop, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="cable-pull",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=60, good_within_ms=1000),
    steps=[
        Baseline(seconds=10),
        Inject(CablePull("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=40),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=60, then_s=5),
    ],
    objectives=[
        o.recovered(
            within_s=20,
            playbook="Users still reach for nodes that nobody can reach: look at the gateway's connect time-out and "
            "at how many failed checks it takes to leave a node out.",
        ),
        o.placed_twice(
            within_s=10,
            playbook="What ran on in the dark serves again beside its replacement: let the allocator end the "
            "surrogates, never both sides.",
        ),
        o.no_dip(
            window="failback",
            playbook="The return hurt: did connections from before the cut come back to life with old answers?",
        ),
    ],
)
