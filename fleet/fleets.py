"""Ready-made fleets for drills and tests. Pure values; a drill script says ``fleets.three_clusters()``.

Cluster names are words that nobody can confuse (remediation 2 of the outage).
"""

from __future__ import annotations

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
