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
        o.recovered(scope="fleet", within_s=10, ratio=0.99),
        o.recovered(scope="each model", within_s=10, ratio=0.90),
        o.reallocated(within_s=5),
        o.warm(within_s=15),
        o.lost(at_most=400),  # 120 rps x 1/3 of it x 10 s
        o.latency(scope="bystanders", p95_ms=250),
        o.no_dip(window="failback"),
        o.failed_back(within_s=15),
    ],
)
