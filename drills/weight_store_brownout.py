"""In the middle of the recovery the weight store's egress drops to a tenth; it answers 503 past its queue.

The models of cobalt must be loaded elsewhere, and the account that has their weights is slow. Whoever has a second
account goes there when the first says 503; nobody asks again before the store's Retry-After.
Not ready: --fleet small:stores=1 (one account; and small:patience=0 shows nodes that hammer a busy store).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, WeightStoreBrownout, fleets
from blackstart import objectives as o

drill = Drill(
    name="weight-store-brownout",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(PowerLoss("cobalt")),
        Inject(WeightStoreBrownout("weights", factor=0.1)),
        Observe(until=o.all_recovered(), at_most_s=18, then_s=3),
    ],
    objectives=[
        o.recovered(
            within_s=6,
            playbook="Weights are late. Look at weight_store_downloads and 503s by account. Point nodes at another "
            "account (order of store_urls), load the highest priority first, ask the provider for egress.",
        ),
        o.reallocated(
            within_s=6,
            playbook="Replicas sit in Loading: see bytes by tier on their nodes. Switch on node-to-node fetch, so that "
            "one copy a cluster crosses the egress.",
        ),
        o.busy_honoured(
            playbook="Nodes ask a busy store again before its Retry-After and keep it busy. Make the client honour it "
            "(honour_retry_after); until then stop the lowest-priority loads by hand.",
        ),
        o.latency(
            scope="bystanders",
            p95_ms=250,
            playbook="Models that load nothing got slower: look for what they share with the loaders (disk, link).",
        ),
    ],
)
