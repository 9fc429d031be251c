"""The cluster comes back: no second dip, nothing placed twice beyond a grace, no valid weights fetched again.

In June 2022 the return with cold caches was a small outage of its own. Here the returning nodes take the weights from
those that served meanwhile, and each surrogate ends only when its home replica answers.
Not ready: --fleet small:peers=0 (nodes know only the store: all that cobalt serves crosses its egress again).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, Restore, fleets
from blackstart import objectives as o

MIB = 2**20

drill = Drill(
    name="return-of-the-cluster",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=15),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=25, then_s=3),
    ],
    objectives=[
        o.recovered(
            within_s=8,
            playbook="The return cannot be judged before the loss is survived: run `cluster-loss` first.",
        ),
        o.no_dip(
            window="failback",
            playbook="Users felt the return. Stop the fail-back (failback off), keep the surrogates, and look which "
            "model dipped: was its surrogate ended before its home replica was routed to?",
        ),
        o.placed_twice(
            within_s=3,
            playbook="A model runs at home and as a surrogate: GPUs are held twice. Look at the allocator's log for a "
            "deletion that failed; delete the surrogate by hand (its name ends with -s and a number).",
        ),
        o.store_bytes(
            window="failback",
            at_most=1 * MIB,
            playbook="Valid weights crossed the store's egress again. Switch on node-to-node fetch; look at "
            "x-weights and model_cache_requests by tier on the returning nodes.",
        ),
    ],
)
