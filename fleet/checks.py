"""``problems``: everything that is wrong with a fleet's description, each with the value, the rule and the numbers.

Pure; called by ``FleetSpec.problems`` and by ``plan``. It never stops at the first mistake.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from fleet.spec import FleetSpec, ModelSpec

_PLACE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,62}")
_MAX_CLUSTERS, _MAX_NODES, _MAX_REPLICAS, _MAX_GPUS, _MAX_FINE_TUNES = 200, 200, 64, 4096, 999


_SHOWN = 3
"""So many replicas without a place are named; the rest are counted."""


def problems(spec: FleetSpec) -> tuple[str, ...]:
    """Every problem of ``spec`` in reading order; empty when it is sound."""
    found = [*_names(spec), *_numbers(spec), *_references(spec), *_shares(spec), *_switches(spec)]
    found += _sizes(spec)
    if not found:  # a packing of nonsense says nothing
        found += _capacity(spec)
    return tuple(found)


def problems_of_parts(spec: FleetSpec) -> tuple[str, ...]:
    """Those of ``problems`` that hold whatever else is mended: of names, numbers, references and switches."""
    found = [*_names(spec), *_numbers(spec), *_references(spec), *_switches(spec)]
    return tuple(line for line in found if not line.startswith("the fleet has no "))


def _names(spec: FleetSpec) -> Iterator[str]:
    if not _PLACE_NAME.fullmatch(spec.name):
        yield f"fleet name {spec.name!r}: only small letters, digits and inner dashes, at most 42"
    for what, things in (("cluster", spec.clusters), ("model", spec.models), ("weight store", spec.stores)):
        if not things:
            yield f"the fleet has no {what}; it needs at least 1"
    nodes = [node.name for cluster in spec.clusters for node in cluster.nodes]
    clusters = [c.name for c in spec.clusters]
    for what, names in (("cluster", clusters), ("node", nodes), ("weight store", [s.name for s in spec.stores])):
        yield from _bad_names(what, names, _PLACE_NAME, "only small letters, digits and inner dashes, at most 42")
    yield from _bad_names(
        "model", [m.name for m in spec.models], _MODEL_NAME, "only letters, digits and inner . _ : -, at most 63"
    )


def _bad_names(what: str, names: Sequence[str], pattern: re.Pattern[str], rule: str) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{what} name {name!r} is used {count} times; names must be unique in the fleet"
        if not pattern.fullmatch(name):
            yield f"{what} name {name!r}: {rule}"


def _numbers(spec: FleetSpec) -> Iterator[str]:
    if len(spec.clusters) > _MAX_CLUSTERS:
        yield f"{len(spec.clusters)} clusters; at most {_MAX_CLUSTERS}"
    for cluster in spec.clusters:
        if not 1 <= len(cluster.nodes) <= _MAX_NODES:
            yield f"cluster {cluster.name}: {len(cluster.nodes)} nodes; the rule is 1 to {_MAX_NODES}"
        for node in cluster.nodes:
            yield from _within(f"node {node.name}: gpus", node.gpus, 0, _MAX_GPUS)
            yield from _positive(f"node {node.name}: cache_bytes", node.cache_bytes)
    for model in spec.models:
        yield from _model_numbers(model)
    for store in spec.stores:
        yield from _positive(f"store {store.name}: egress_bytes_s", store.egress_bytes_s)
        yield from _positive(f"store {store.name}: max_queue", store.max_queue)
    for link in spec.links:
        yield from _positive(f"link of store {link.store}: bytes_s", link.bytes_s)


def _model_numbers(model: ModelSpec) -> Iterator[str]:
    where = f"model {model.name}:"
    if model.kind not in ("chat", "completion", "embedding"):
        yield f"{where} kind {model.kind!r}; the kinds are chat, completion, embedding"
    if not model.model_class:
        yield f"{where} model_class is empty; every model has one"
    yield from _within(f"{where} gpus", model.gpus, 1, _MAX_GPUS)
    yield from _within(f"{where} replicas", model.replicas, 1, _MAX_REPLICAS)
    yield from _within(f"{where} share", model.share, 0, 1)
    yield from _within(f"{where} copies", model.copies, 1, _MAX_REPLICAS)
    yield from _within(f"{where} fine_tunes", model.fine_tunes, 0, _MAX_FINE_TUNES)
    for name in ("weight_bytes", "slots", "prompt_tokens", "max_tokens"):
        yield from _positive(f"{where} {name}", getattr(model, name))
    for name in ("queue", "first_token_ms", "token_ms", "zipf", "gpu_memory_bytes", "cold_requests", "cold_factor"):
        yield from _not_negative(f"{where} {name}", getattr(model, name))


def _references(spec: FleetSpec) -> Iterator[str]:
    clusters, models = {c.name for c in spec.clusters}, {m.name for m in spec.models}
    stores = {s.name: s for s in spec.stores}
    for model in spec.models:
        if model.fallback and model.fallback not in models:
            yield f"model {model.name}: fallback {model.fallback!r} is no model of the fleet ({_list(models)})"
        if model.fallback and model.fallback == model.name:
            yield f"model {model.name}: its fallback is itself; name another model or none"
        for home in dict.fromkeys(model.homes):
            if home not in clusters:
                yield f"model {model.name}: home {home!r} is no cluster of the fleet ({_list(clusters)})"
    for store in spec.stores:
        if store.cluster and store.cluster not in clusters:
            yield f"store {store.name}: cluster {store.cluster!r} is no cluster of the fleet ({_list(clusters)})"
    for name, count in Counter(link.store for link in spec.links).items():
        if count > 1:
            yield f"store {name} has {count} links; a store has one link to all other clusters"
        if name not in stores:
            yield f"a link names store {name!r}, which is no store of the fleet ({_list(stores)})"
        elif not stores[name].cluster:
            yield f"store {name} stands beside no cluster, so no cluster is another one: its link would never be used"


def _shares(spec: FleetSpec) -> Iterator[str]:
    total = sum(m.share for m in spec.models)
    if spec.models and abs(total - 1) > 1e-6:
        yield f"shares of the models sum to {total:.6g}; the rule is 1"


def _switches(spec: FleetSpec) -> Iterator[str]:
    switches = spec.switches
    if switches.reaction not in ("automatic", "manual"):
        yield f"switch reaction {switches.reaction!r}; it is automatic or manual"
    for name in (
        "detect_interval_s",
        "detect_failures",
        "detect_timeout_s",
        "connect_timeout_s",
        "read_timeout_s",
        "health_interval_s",
    ):
        yield from _positive(f"switch {name}", getattr(switches, name))
    if switches.checks not in ("http", "tcp"):
        yield f"switch checks {switches.checks!r}; it is http or tcp"
    for name in ("decision_delay_s", "retries", "slow_start_s", "provision_node_s"):
        yield from _not_negative(f"switch {name}", getattr(switches, name))


def _sizes(spec: FleetSpec) -> Iterator[str]:
    """A model that no node of its homes can take, in GPUs or in cache."""
    largest = {c.name: max(c.nodes, key=lambda n: n.gpus) for c in spec.clusters if c.nodes}
    nodes = [node for cluster in spec.clusters for node in cluster.nodes]
    small = {(node.gpus, node.cache_bytes): node for node in reversed(nodes)}  # one node of each kind: large fleets
    for model in spec.models:
        homes = [(f"its home {home}", largest[home]) for home in _homes(model) if home in largest]
        if not homes and largest:
            homes = [("the fleet", max(largest.values(), key=lambda n: n.gpus))]
        for name, node in homes:
            if model.gpus > node.gpus:
                yield (
                    f"model {model.name} needs {model.gpus} GPUs on one node; the largest node of {name} is "
                    f"{node.name} with {node.gpus}"
                )
        for node in small.values():
            if node.gpus >= model.gpus and node.cache_bytes < model.weight_bytes:
                yield (
                    f"model {model.name} has {model.weight_bytes} bytes of weights; the cache of node {node.name}, "
                    f"which could take it, holds {node.cache_bytes}"
                )


def _homes(model: ModelSpec) -> tuple[str, ...]:
    """Clusters of which one node at least must take a replica; none: any cluster of the fleet."""
    return tuple(dict.fromkeys(model.homes[: max(model.replicas, 0)]))


def _capacity(spec: FleetSpec) -> Iterator[str]:
    from fleet.placement import unplaced

    if lines := unplaced(spec):
        need, have = sum(m.gpus * m.replicas for m in spec.models), sum(c.gpus for c in spec.clusters)
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        short = f"{need} GPUs, it has {have}" if need > have else f"{need} of its {have} GPUs, not all fit on a node"
        yield (
            f"the fleet cannot hold its models even with all clusters up: they need {short}; no place is left: "
            f"{'; '.join(lines[:_SHOWN])}{more}"
        )


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "it has none"


def _within(what: str, value: float, low: float, high: float) -> Iterator[str]:
    if not low <= value <= high:
        yield f"{what} is {value}; the rule is {low} to {high}"


def _positive(what: str, value: float) -> Iterator[str]:
    if not 0 < value < float("inf"):
        yield f"{what} is {value}; it must be more than 0"


def _not_negative(what: str, value: float) -> Iterator[str]:
    if not 0 <= value < float("inf"):
        yield f"{what} is {value}; it must be 0 or more"
