"""Cobalt's API is gone, its data plane serves on: nothing must be moved in a hurry, no user must notice.

The API's silence looks like a lost cluster to a controller that asks nobody else. It takes time, or people, to tell the
two apart; whoever hurries copies models that serve well, and holds their GPUs twice.
Not ready: --fleet small:decision_s=0 (the controller moves at once what it cannot see).
"""

from blackstart import Baseline, ControlPlaneCut, Drill, Inject, Observe, OpenLoop, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="control-plane-cut",
    fleet=fleets.small(decision_s=60),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(ControlPlaneCut("cobalt")),
        Observe(at_most_s=12),
        Restore("cobalt"),
        Observe(at_most_s=8),
    ],
    objectives=[
        o.no_dip(
            window="fault",
            playbook="Users felt an outage of the API: something on the request path asks it. Look at the gateway: it "
            "must keep the replicas that it knows when a watch breaks.",
        ),
        o.placed_twice(
            window="fault",
            within_s=2,
            playbook="Models were copied although cobalt still serves them: the controller took a silent API for a "
            "lost cluster. Give people time to look (decision_delay_s), or check the data plane as well.",
        ),
        o.no_dip(
            window="failback",
            playbook="The API's return hurt: look for mass deletions of replicas right after it answered again.",
        ),
    ],
)
