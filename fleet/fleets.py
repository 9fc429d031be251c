"""Ready-made fleets for drills and tests. Pure values; a drill script says ``fleets.three_clusters()``.

Cluster names are words that nobody can confuse (remediation 2 of the outage).
"""

from __future__ import annotations

from dataclasses import replace

from fleet.june import JUNE_REMEDIES as JUNE_REMEDIES
from fleet.june import JUNE_RPS as JUNE_RPS
from fleet.june import june_2022 as june_2022
from fleet.spec import MIB, ClusterSpec, FleetSpec, ModelSpec, NodeSpec, StoreSpec, Switches

CLUSTERS = ("amber", "cobalt", "jade")

KIB = 1024


def three_clusters(headroom: int = 1, switches: Switches | None = None) -> FleetSpec:
    """Three clusters of two nodes and nine models in five classes; ``headroom`` = GPUs a node beyond 7.

    With 1 (8 a node) whatever one cluster loses packs onto the other two. With 0 the same models run as long as all
    clusters are up, and when cobalt goes, ``ft-davinci`` (4 GPUs on one node) finds no place until cobalt is back:
    the outage in small. Four models live in cobalt alone, three have no replica in it.
    """
    return FleetSpec(
        name="three-clusters" if headroom > 0 else "three-clusters-no-headroom",
        clusters=tuple(
            ClusterSpec(name, tuple(NodeSpec(f"{name}-n{i}", 7 + headroom, 64 * MIB) for i in (1, 2)))
            for name in CLUSTERS
        ),
        models=(
            ModelSpec("chat-large", "chat", "base", 6 * MIB, 4, 3, 100, 0.30, homes=CLUSTERS),
            ModelSpec("chat-small", "chat", "base", 2 * MIB, 1, 2, 90, 0.20, homes=("amber", "jade")),
            ModelSpec(
                "code-davinci", "completion", "codex", 4 * MIB, 2, 1, 80, 0.10, "code-cushman", homes=("cobalt",)
            ),
            ModelSpec("code-cushman", "completion", "codex", 2 * MIB, 2, 2, 70, 0.08, homes=("amber", "jade")),
            ModelSpec("text-embedding", "embedding", "embeddings", 1 * MIB, 1, 2, 60, 0.12, homes=("cobalt", "amber")),
            ModelSpec("curie", "completion", "legacy", 2 * MIB, 1, 1, 50, 0.07, homes=("cobalt",)),
            ModelSpec("babbage", "completion", "legacy", 3 * MIB // 2, 1, 1, 40, 0.05, homes=("jade",)),
            ModelSpec("ft-curie", "chat", "fine-tuned", 5 * MIB, 2, 1, 30, 0.05, "chat-small", homes=("cobalt",)),
            ModelSpec("ft-davinci", "chat", "fine-tuned", 8 * MIB, 4, 1, 20, 0.03, "chat-large", homes=("cobalt",)),
        ),
        stores=(StoreSpec("weights", egress_bytes_s=24 * MIB),),
        switches=switches or Switches(),
    )


def micro(switches: Switches | None = None) -> FleetSpec:
    """The smallest fleet that can lose a cluster: three clusters of one node, four models, tiny weights. For tests."""
    return FleetSpec(
        name="micro",
        clusters=tuple(ClusterSpec(name, (NodeSpec(f"{name}-n1", 4, 16 * MIB),)) for name in CLUSTERS),
        models=(
            ModelSpec("chat", "chat", "base", 512 * KIB, 1, 3, 100, 0.40, homes=CLUSTERS),
            ModelSpec("code", "completion", "codex", 1 * MIB, 2, 1, 80, 0.30, "chat", homes=("cobalt",)),
            ModelSpec("embed", "embedding", "embeddings", 256 * KIB, 1, 1, 60, 0.20, homes=("cobalt",)),
            ModelSpec("curie", "completion", "legacy", 256 * KIB, 1, 1, 40, 0.10, homes=("amber",)),
        ),
        stores=(StoreSpec("weights", egress_bytes_s=32 * MIB),),
        switches=switches or Switches(detect_interval_s=0.1, detect_failures=2, health_interval_s=0.2),
    )


def _three(name: str, models: tuple[ModelSpec, ...], gpus: int, switches: Switches, stores: int = 1) -> FleetSpec:
    """Three clusters of one node; ``stores`` accounts of 6 MiB/s, each with every object."""
    names = ("weights", "weights-copy")[:stores]
    return FleetSpec(
        name=name,
        clusters=tuple(ClusterSpec(cluster, (NodeSpec(f"{cluster}-n1", gpus, 64 * MIB),)) for cluster in CLUSTERS),
        models=models,
        stores=tuple(StoreSpec(store, egress_bytes_s=6 * MIB, max_queue=2) for store in names),
        switches=switches,
    )


def small(
    peers: int = 1,
    answers: int = 1,
    stores: int = 2,
    patience: int = 1,
    provision_s: int = 1,
    ingress: int = 1,
    decision_s: int = 0,
) -> FleetSpec:
    """A small fleet that survives the loss of cobalt; each argument is one thing that can be missing.

    ``peers`` 0: nodes fetch weights from the store only. ``answers`` 0: health checks are content with TCP.
    ``stores`` 1: one account. ``patience`` 0: nodes do not honour Retry-After. ``provision_s``: the provider's time for
    a node of a rebuilt cluster. ``ingress`` 0: what a restored cluster serves cannot be reached. ``decision_s``: how
    long the controller waits before it moves anything.
    """
    return _three(
        "small",
        (
            ModelSpec("chat", "chat", "base", 1 * MIB, 1, 3, 100, 0.40, homes=CLUSTERS),
            ModelSpec("code", "completion", "codex", 4 * MIB, 2, 1, 80, 0.30, "chat", homes=("cobalt",)),
            ModelSpec("embed", "embedding", "embeddings", 1 * MIB, 1, 1, 60, 0.20, homes=("cobalt",)),
            ModelSpec("curie", "completion", "legacy", 1 * MIB, 1, 1, 40, 0.10, homes=("amber",)),
        ),
        gpus=6,
        switches=Switches(
            peer_fetch=bool(peers),
            checks="http" if answers else "tcp",
            honour_retry_after=bool(patience),
            provision_node_s=float(provision_s),
            ingress_restored=bool(ingress),
            decision_delay_s=float(decision_s),
        ),
        stores=stores,
    )


def tight(priorities: int = 1) -> FleetSpec:
    """Cobalt's four GPUs of models meet three free ones, no two of them beside each other but in jade.

    ``priorities`` 0: all models are equal, and the largest is declared first.
    """
    models = (
        ModelSpec("ft-davinci", "chat", "fine-tuned", 2 * MIB, 2, 1, 20, 0.10, homes=("cobalt",)),
        ModelSpec("chat", "chat", "base", 1 * MIB, 1, 3, 100, 0.40, homes=CLUSTERS),
        ModelSpec("embed", "embedding", "embeddings", 1 * MIB, 1, 1, 80, 0.30, homes=("cobalt",)),
        ModelSpec("curie", "completion", "legacy", 1 * MIB, 2, 1, 60, 0.10, homes=("amber",)),
        ModelSpec("babbage", "completion", "legacy", 1 * MIB, 1, 1, 60, 0.10, homes=("jade",)),
    )
    equal = tuple(replace(model, priority=0) for model in models)
    return _three("tight", models if priorities else equal, gpus=4, switches=Switches())


def many_fine_tunes(copies: int = 2) -> FleetSpec:
    """A pool of 24 fine-tunes in cobalt; ``copies`` 2: jade serves them too and has them in its cache."""
    return _three(
        "many-fine-tunes",
        (
            ModelSpec("chat", "chat", "base", 1 * MIB, 1, 3, 100, 0.40, homes=CLUSTERS),
            ModelSpec(
                "ft-curie",
                "chat",
                "fine-tuned",
                2 * MIB,
                1,
                copies,
                50,
                0.60,
                homes=("cobalt", "jade")[:copies],
                fine_tunes=24,
                zipf=0.6,
                copies=copies,
            ),
        ),
        gpus=4,
        switches=Switches(peer_fetch=True),
    )


def cold_servers(gradual: int = 1) -> FleetSpec:
    """A model whose replicas are slow for the first 25 answers of their life: cold, one cannot carry the whole traffic.

    ``gradual`` 0: the gateway gives a replica that became ready all its traffic at once.
    """
    return _three(
        "cold-servers",
        (
            ModelSpec(
                "chat", "chat", "base", 1 * MIB, 1, 1, 90, 0.60, homes=("cobalt",), cold_requests=25, cold_factor=20.0
            ),
            ModelSpec("curie", "completion", "legacy", 1 * MIB, 1, 2, 40, 0.40, homes=("amber", "jade")),
        ),
        gpus=4,
        switches=Switches(peer_fetch=True, slow_start_s=10.0 if gradual else 0.0),
    )


def herd(single_flight: int = 1) -> FleetSpec:
    """Six replicas of one model in cobalt, which start at once on two nodes elsewhere.

    ``single_flight`` 0: each replica has its node download the weights for itself.
    """
    return _three(
        "herd",
        (
            ModelSpec("chat", "chat", "base", 4 * MIB, 1, 6, 90, 0.80, homes=("cobalt",)),
            ModelSpec("curie", "completion", "legacy", 1 * MIB, 1, 2, 40, 0.20, homes=("amber", "jade")),
        ),
        gpus=6,
        switches=Switches(single_flight=bool(single_flight)),
        stores=2,
    )
