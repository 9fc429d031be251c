"""Cobalt is gone for good: deleted with all it held, and provisioned anew, stage by stage, each stage an objective.

How long does a new cluster take, and which stage takes it? In June 2022 the answer was "normally fairly quick", and ten
hours. The stages are API, nodes (in `local` handed out by the provider one after the other), GPUs, serving.
Not ready: --fleet small:provision_s=8 (the provider takes 8 s for a node).
"""

from blackstart import Baseline, Destroy, Drill, Inject, Observe, OpenLoop, Restore, fleets
from blackstart import objectives as o

drill = Drill(
    name="rebuild-from-scratch",
    fleet=fleets.small(),
    load=OpenLoop(rate_rps=100, good_within_ms=500),
    steps=[
        Baseline(seconds=5),
        Inject(Destroy("cobalt")),
        Observe(until=o.all_recovered(), at_most_s=15),
        Restore("cobalt"),
        Observe(until=o.all_failed_back(), at_most_s=30),
    ],
    objectives=[
        o.recovered(
            within_s=8,
            playbook="Users must not wait for the rebuild: the survivors take over. Run `cluster-loss` first.",
        ),
        o.provisioned(
            "api",
            within_s=3,
            playbook="The control plane is late: quota, image pull, certificates. Keep images and plan ready; "
            "try it monthly.",
        ).elsewhere(kind=40),
        o.provisioned(
            "nodes",
            within_s=5,
            playbook="Nodes are late: ask the provider's status page first, then quota, then the node image. Keep one "
            "node pool of spares, and order nodes in parallel.",
        ).elsewhere(kind=45),
        o.provisioned(
            "gpus",
            within_s=5,
            playbook="Nodes are there, GPUs are not allocatable: device plugin, driver, labels, taints, in this order.",
        ).elsewhere(kind=50),
        o.serves_again(
            within_s=8,
            playbook="All stages are green and no user is served: see the drill `false-restore`.",
        ),
        o.no_dip(
            window="failback",
            playbook="The new cluster was let in too early: take its share at the gateway to 0 and raise it in steps.",
        ),
    ],
)
