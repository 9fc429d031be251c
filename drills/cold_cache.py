"""All is placed, nothing is warm: a pool of fine-tunes is ready at once and has none of its weights.

A pool's replica is ready as soon as it runs; each fine-tune is loaded when first asked for. *Ready* and *warm* are
two figures, and users feel the second (2022-06-23, 23:03: "customer model weights taking a long time to load").
Not ready: --fleet many-fine-tunes:copies=1 (no second copy anywhere: every byte crosses the store's egress again).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets
from blackstart import objectives as o

drill = Drill(
    name="cold-cache",
    fleet=fleets.many_fine_tunes(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=10),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=16, then_s=4),
    ],
    objectives=[
        o.reallocated(
            within_s=4,
            playbook="Replicas were not placed: look at the allocator's /state for the reason with its numbers "
            "(GPUs on one node), and at `blackstart plan`.",
        ),
        o.recovered(
            "class:fine-tuned",
            within_s=6,
            playbook="Placed, yet users wait: weights are on their way. Look at the store's egress and queue; serve "
            "the most popular fine-tunes first, advise the fallback model, raise the egress limit with the provider.",
        ),
        o.warm(
            "class:fine-tuned",
            within_s=6,
            playbook="Answers come, weights do not stay: look at bytes by tier. From the store: switch on node-to-node "
            "fetch and keep a second copy in another cluster (copies=2). From local: GPU memory is too small.",
        ),
        o.recovered(
            "class:base",
            within_s=6,
            playbook="The base model shares only the gateway with the pool: look for connections that the slow "
            "fine-tunes hold, and give the pool time-outs of its own.",
        ),
    ],
)
