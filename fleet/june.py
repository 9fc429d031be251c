"""The fleet of June 2022 in small, and each remediation of the outage as a change of it. Called by drills and tests.

Three clusters; cobalt is the one that goes. Everything of the report's list of models that went offline lives in it;
*some* fine-tuned models live elsewhere. Without remediations the survivors have 17 GPUs free, which is one replica of
each base model, both of the curie pool and one of three of the davinci pool. Why each figure is what it is stands in
``drills/june_2022/PARAMETERS.md``. Pure values; it starts nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

from fleet.spec import MIB, ClusterSpec, FleetSpec, LinkSpec, ModelSpec, NodeSpec, StoreSpec, Switches
from history.errors import UsageError

JUNE_REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "locks": "1, 2: checks and locks: the destructive operation is refused",
        "setup": "3, 5: cluster set-up and upgrades are checked beforehand",
        "shard": "6: fine-tuned models sharded over clusters and replicated across",
        "stores": "7: weight storage replicated per cluster",
        "peers": "8: node-to-node cache",
        "light": "9: weights of half the size",
        "headroom": "from the text: N-1 headroom of GPUs, automatic reallocation",
        "fallback": "the advice of 04:14: text-davinci-002 answers meanwhile",
    }
)
"""Name -> the report's number and what it is. ``locks`` and ``setup`` change the operation and the restore only."""

RATES_RPS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "text-davinci-002": 4.0,
        "code-davinci-001": 4.0,
        "code-cushman-001": 3.0,
        "text-similarity-ada-001": 4.0,
        "curie": 3.0,
        "babbage": 3.0,
        "ada": 3.0,
        "ft-curie": 20.0,
        "ft-curie-jade": 3.0,
        "ft-davinci": 10.0,
        "ft-davinci-amber": 1.5,
    }
)
JUNE_RPS: Final = sum(RATES_RPS.values())

FT_CURIE_BYTES: Final = 460 * 1024
FT_DAVINCI_BYTES: Final = 1280 * 1024
EGRESS_BYTES_S: Final = 5.5 * MIB
LINK_BYTES_S: Final = 3.0 * MIB


def june_2022(remedies: Collection[str] = (), *, decision_s: float = 10.5) -> FleetSpec:
    """The fleet with these remediations; ``decision_s``: how long people take from the detection to the decision.

    ``UsageError`` for a remediation that there is not.
    """
    if unknown := sorted(set(remedies) - set(JUNE_REMEDIES)):
        raise UsageError(
            f"no remediation is called {', '.join(map(repr, unknown))}", hint=f"there are: {', '.join(JUNE_REMEDIES)}"
        )
    return FleetSpec(
        name="june-2022",
        clusters=_clusters("shard" in remedies, "headroom" in remedies),
        models=_models("shard" in remedies, 2 if "light" in remedies else 1),
        stores=_stores("stores" in remedies),
        links=() if "stores" in remedies else (LinkSpec("weights", LINK_BYTES_S),),
        switches=Switches(
            peer_fetch="peers" in remedies,
            detect_interval_s=0.1 if "headroom" in remedies else 0.25,
            detect_failures=2 if "headroom" in remedies else 3,
            decision_delay_s=0.0 if "headroom" in remedies else decision_s,
            health_interval_s=1.0,
            locked=("cobalt",) if "locks" in remedies else (),
            fallback="fallback" in remedies,
        ),
    )


def _clusters(shard: bool, headroom: bool) -> tuple[ClusterSpec, ...]:
    """Node by node, so that packing puts everything where it is meant to be. Caches: large hold a bit more than half of
    the curie pool, small two thirds of the davinci pool (all of it where it is replicated); jade-n3, where the one
    davinci replica finds its place after the loss, holds a quarter of it."""
    large = (150 if shard else 110) * MIB
    small = (36 if shard else 20) * MIB
    least = small if shard or headroom else 6 * FT_DAVINCI_BYTES

    def cluster(name: str, *nodes: tuple[int, int]) -> ClusterSpec:
        return ClusterSpec(name, tuple(NodeSpec(f"{name}-n{i}", g, cache) for i, (g, cache) in enumerate(nodes, 1)))

    amber: tuple[tuple[int, int], ...] = ((4, small), (4, small), (10, large))
    jade: tuple[tuple[int, int], ...] = ((4, small), (3, large), (4, least), (3, large))
    if headroom:
        amber, jade = (*amber, (4, small), (3, large)), (*jade, (4, small), (3, large))
    cobalt = (*[(4, large)] * 3, *[(3, large)] * 2, (10, large))  # alike: where what returns finds room is chance
    return (cluster("amber", *amber), cluster("cobalt", *cobalt), cluster("jade", *jade))


def _models(shard: bool, lighter: int) -> tuple[ModelSpec, ...]:
    def model(
        name: str, cls: str, gpus: int, replicas: int, priority: int, homes: tuple[str, ...], **more: Any
    ) -> ModelSpec:
        fields: dict[str, Any] = {
            "kind": "completion",
            "weight_bytes": MIB // 4 // lighter,
            "stream": False,
            "max_tokens": 4,
            "token_ms": 25.0,
            **more,
        }
        fields |= {"share": RATES_RPS[name] / JUNE_RPS, "gpus": gpus, "replicas": replicas}
        return ModelSpec(name=name, model_class=cls, priority=priority, homes=homes, **fields)

    curie: dict[str, Any] = {"weight_bytes": FT_CURIE_BYTES // lighter, "zipf": 0.6, "slots": 8, "queue": 12}
    curie |= {"gpu_memory_bytes": 60 * FT_CURIE_BYTES}
    davinci: dict[str, Any] = {"weight_bytes": FT_DAVINCI_BYTES // lighter, "zipf": 0.6, "slots": 4, "queue": 12}
    davinci |= {"gpu_memory_bytes": 4 * FT_DAVINCI_BYTES, "fallback": "text-davinci-002"}
    everywhere = ("cobalt", "amber", "jade")
    two, three = (3, 3) if shard else (2, 3)
    ft: dict[str, Any] = {"homes": everywhere, "copies": 2} if shard else {"homes": ("cobalt",)}
    return (
        model("text-davinci-002", "instruct", 4, 2, 100, ("jade", "cobalt" if shard else "amber"), spare_priority=4),
        model("code-davinci-001", "codex", 2, 2, 80, ("cobalt",), spare_priority=5),
        model("code-cushman-001", "codex", 1, 2, 75, ("cobalt",), spare_priority=5),
        model("text-similarity-ada-001", "embeddings", 1, 1, 70, ("cobalt",), kind="embedding"),
        model("curie", "legacy", 1, 1, 60, ("cobalt",)),
        model("babbage", "legacy", 1, 1, 60, ("cobalt",)),
        model("ada", "legacy", 1, 1, 60, ("cobalt",)),
        model("ft-curie", "ft-curie", 3, two, 30, fine_tunes=400, **curie, **ft),
        model("ft-curie-jade", "ft-curie", 3, 1, 30, ("jade",), fine_tunes=100, **curie),
        model("ft-davinci", "ft-davinci", 4, three, 20, fine_tunes=24, **davinci, **ft),
        model("ft-davinci-amber", "ft-davinci", 4, 1, 20, ("amber",), fine_tunes=8, **davinci),
    )


def _stores(replicated: bool) -> tuple[StoreSpec, ...]:
    """One account beside cobalt (it outlives the cluster), or one beside each cluster."""
    if not replicated:
        return (StoreSpec("weights", EGRESS_BYTES_S, "cobalt"),)
    return tuple(StoreSpec(f"weights-{name}", EGRESS_BYTES_S, name) for name in ("amber", "cobalt", "jade"))
