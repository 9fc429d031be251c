"""Declared restored, not serving (2022-06-24 02:38: "we have restored the original cluster"; it took four hours more).

API, nodes and GPUs all say that cobalt is back. This drill believes none of them: it asks whether a user was answered.
Not ready: --fleet small:ingress=0 (after a restart, the addresses at which cobalt serves lead nowhere).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="false-restore",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=15),
        Restore("cobalt"),
        Observe(at_most_s=12),
    ],
    objectives=[
        o.recovered(
            within_s=8,
            playbook="The loss itself was not survived: run `cluster-loss` first.",
        ),
        o.serves_again(
            within_s=8,
            playbook="Do not post that the cluster is restored. Ask a model server of it directly, then through the "
            "ingress, then through the gateway: the first that fails is the part that is not restored. Keep the "
            "surrogates until it answers.",
        ),
        o.no_dip(
            window="failback",
            playbook="Traffic was moved to a cluster that does not serve. Take its share at the gateway to 0 now; "
            "bring the surrogates back; move traffic only after an answer was seen.",
        ),
    ],
)
