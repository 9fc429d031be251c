"""The smallest whole drill, for tests: a cluster of the micro fleet loses power under load and stays down."""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets
from blackstart import objectives as o

drill = Drill(
    name="micro-drill",
    fleet=fleets.micro(),
    load=OpenLoop(rate_rps=150, good_within_ms=500),
    steps=[
        Baseline(seconds=2),
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=15),
    ],
    objectives=[
        o.recovered(scope="fleet", within_s=5, ratio=0.99),
        o.recovered(scope="each model", within_s=5, ratio=0.90),
        o.reallocated(within_s=4),
        o.lost(at_most=500),
    ],
)
