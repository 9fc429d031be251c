"""Six replicas of one model start at once on two nodes: the store must send its weights once a cluster, not six times.

Single flight: whoever asks for an object that is on its way waits for it. Without it the egress is shared by six equal
downloads, and all of them are late together.
Not ready: --fleet herd:single_flight=0 (each replica has its node download for itself).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets
from blackstart import objectives as o

drill = Drill(
    name="thundering-herd",
    fleet=fleets.herd(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=15, then_s=5),  # until the last of six has loaded
    ],
    objectives=[
        o.store_copies(
            at_most=1.2,
            playbook="The store sends the same bytes several times a cluster. Is there one agent a node, and does it "
            "hold requests for an object that is on its way? Then: node-to-node fetch inside the cluster.",
        ),
        o.recovered(
            "model:chat",
            within_s=6,
            playbook="All replicas load at once and none is ready: start one a node first, the others when it is "
            "resident; raise the account's egress.",
        ),
        o.latency(
            scope="bystanders",
            p95_ms=250,
            playbook="Models that load nothing got slower: look for what they share with the herd.",
        ),
    ],
)
