"""Traffic comes back all at once, or gradually: a replica that has just started cannot carry a whole model yet.

The first answers of a replica's life are slow (kernels compile, prefix caches are empty). When cobalt is back, its cold
replica of `chat` gets the traffic of the warm surrogate (2022-08-19: re-admission "hindered" the recovery).
Not ready: --fleet cold-servers:gradual=0 (the gateway gives it everything at once).
"""

from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="readmission-surge",
    fleet=fleets.cold_servers(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=8),  # also this life's first answers are slow: they are over by then
        Inject(PowerLoss("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=20),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=30),
    ],
    objectives=[
        o.recovered(
            within_s=10,
            playbook="The surrogate was cold too and had no warm neighbour to lean on: keep a warm spare of `chat` in "
            "a second cluster.",
        ),
        o.no_dip(
            window="failback",
            playbook="The cold replica was overrun. Take its cluster's share down at the gateway (POST /share), let it "
            "warm up at 5 to 10 %, then raise it in steps; for good: slow_start_s.",
        ),
        o.latency(
            scope="model:chat",
            window="failback",
            p99_ms=500,
            playbook="Requests queued at the cold replica: look at vllm:num_requests_waiting of the returned cluster; "
            "keep the surrogate until that is 0.",
        ),
    ],
)
