"""Cobalt's API is gone, its data plane serves on: nothing must be moved in a hurry, no user must notice.

Needs real Kubernetes: --env kind (in `local` the control plane and its nodes are one process group; `plan` says so).
Not ready: --fleet small:decision_s=0 (the controller takes a silent API for a lost cluster and moves what serves).
"""

from blackstart import Baseline, ControlPlaneCut, Drill, Inject, Observe, OpenLoop, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="control-plane-cut",
    fleet=fleets.small(decision_s=60),
    load=OpenLoop(rate_rps=60, good_within_ms=1000),
    steps=[
        Baseline(seconds=10),
        Inject(ControlPlaneCut("cobalt")),
        Observe(at_most_s=30),
        Restore("cobalt"),
        Observe(at_most_s=20),
    ],
    objectives=[
        o.no_dip(
            window="fault",
            playbook="Users felt an outage of the API: something on the request path asks it. Look at the gateway: it "
            "must keep the replicas that it knows when a watch breaks.",
        ),
        o.placed_twice(
            window="fault",
            within_s=5,
            playbook="Models were copied although cobalt still serves them: the controller took a silent API for a "
            "lost cluster. Give people time to look (decision_delay_s), or check the data plane as well.",
        ),
        o.no_dip(
            window="failback",
            playbook="The API's return hurt: look for mass deletions of replicas right after it answered again.",
        ),
    ],
)
