"""The objects of one store account have rotted, and nobody knows it until a cluster is lost and they are needed.

Every object is hashed where it arrives; a wrong one is counted, reported, asked for elsewhere, and never served (that
last is shown by tests/fleet/serving/test_agent.py and test_server.py; a server verifies once more as it loads).
Not ready: --fleet small:stores=1 (no second account: there is no sound copy to be had).
"""

from blackstart import Baseline, CorruptWeights, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets
from blackstart import objectives as o

drill = Drill(
    name="corrupt-weights",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(CorruptWeights("weights")),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=15, then_s=3),
    ],
    objectives=[
        o.recovered(
            within_s=8,
            playbook="A sound copy was not found. Take the rotten account out of store_urls; restore its objects from "
            "another account or the training cluster; compare with the manifest before use.",
        ),
        o.corrupt_caught(
            at_least=1,
            playbook="Rot was not noticed: are hashes checked on arrival? Until they are, answers of this fleet cannot "
            "be trusted: stop the replicas that loaded since.",
        ),
        o.store_copies(
            at_most=2.2,
            playbook="A rotten object is fetched again and again from the same account and eats its egress: rest a "
            "source that failed its hash, ask another one first.",
        ),
    ],
)
