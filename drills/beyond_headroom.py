"""The loss exceeds the headroom: what matters most recovers, the rest is said to be impossible beforehand, and is.

Cobalt's four GPUs of models meet three free ones. With priorities the base model and the embeddings come back and
ft-davinci waits for cobalt, exactly as `blackstart plan` says before anything is touched.
Not ready: --fleet tight:priorities=0 (all models equal: the largest is placed first, embeddings find no place).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="beyond-headroom",
    fleet=fleets.tight(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(PowerLoss("cobalt")),
        Observe(at_most_s=13),  # ft-davinci must not recover: there is nothing to wait for
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=20),
    ],
    objectives=[
        o.recovered(
            "class:base",
            within_s=6,
            playbook="The base model has a replica in every cluster. Does the gateway still send to cobalt? "
            "Lower its connect time-out and health interval.",
        ),
        o.recovered(
            "class:embeddings",
            within_s=6,
            playbook="Was it unplaceable? Then lower priorities took its GPUs: give embeddings a higher priority than "
            "ft-davinci, or free GPUs by hand (delete a spare replica) and POST /decide to the allocator.",
        ),
        o.forecast_right(
            playbook="Compare `blackstart plan` with what happened, model by model. A fleet that drifted from its "
            "description is the usual cause: count GPUs and replicas on the survivors, mend the description.",
        ),
        o.latency(
            scope="bystanders",
            p95_ms=250,
            playbook="Moved models squeeze those that never moved: look at slots and queues of their neighbours, and "
            "stop the lowest priority first.",
        ),
        o.recovered(
            "class:legacy",
            within_s=1,
            playbook="Legacy models had nothing in cobalt. If they fell, the blast radius is wider than the cluster: "
            "look at the gateway and the store, which they share.",
        ),
    ],
)
