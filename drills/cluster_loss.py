"""Lose one cluster of three that was sized for it: everything serves again within ten seconds."""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="cluster-loss",
    fleet=fleets.three_clusters(),  # amber, cobalt, jade: names nobody can confuse
    load=OpenLoop(rate_rps=120, good_within_ms=500),  # over the fleet's models by their declared shares
    steps=[
        Baseline(seconds=20),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=60, then_s=20),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=60, then_s=10),
    ],
    objectives=[
        o.recovered(
            scope="fleet",
            within_s=10,
            ratio=0.99,
            playbook="Which model came last, and which of its phases took long: the decision, the place, the weights?",
        ),
        o.recovered(
            scope="each model",
            within_s=10,
            ratio=0.90,
            playbook="Unplaceable: GPUs are short, stop the lowest priority. Loading: look at the store's egress.",
        ),
        o.reallocated(
            within_s=5,
            playbook="See the allocator's /state: lost late (detection), decided late (people), or no node with room.",
        ),
        o.warm(
            within_s=15,
            playbook="Placed and not warm: look at weight bytes by tier; switch on node-to-node fetch.",
        ),
        o.lost(
            at_most=400,  # 120 rps x 1/3 of it x 10 s
            playbook="Look at errors by kind: time-outs mean that the gateway still sends to the dead cluster.",
        ),
        o.latency(
            scope="bystanders",
            p95_ms=250,
            playbook="Moved models squeeze their new neighbours: look at queues by node, move the lowest priority.",
        ),
        o.no_dip(
            window="failback",
            playbook="The return hurt: stop the fail-back, keep the surrogates, see the drill `return-of-the-cluster`.",
        ),
        o.failed_back(
            within_s=15,
            playbook="Replicas are missing at home, or surrogates are left: see the allocator's /state.",
        ),
    ],
)
