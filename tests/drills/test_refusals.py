"""Ways to hurt the wrong cluster: every one refused before anything is touched; and legitimate drills that start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.engine.nouns import (
    Baseline,
    BlastRadius,
    Drill,
    Freeze,
    Inject,
    Noop,
    Observe,
    OpenLoop,
    PowerLoss,
    Restore,
)
from drills.engine.nouns import objectives as o
from drills.engine.nouns.faults import Destroy, WeightStoreBrownout
from drills.engine.runner.guarding import RunStopped
from drills.engine.runner.session import Session
from drills.engine.safety import refusals
from drills.engine.safety.expect import taken_at_once, takes_cluster
from drills.engine.safety.lock import Locks
from drills.engine.safety.lookalike import edit_distance, look_alike, skeleton
from drills.engine.safety.refusals import Protected, Refusal, at_the_gate, before, refuse
from fleet import fleets
from fleet.forecast import placements_planned
from fleet.protocols import Emit, Reachability, Say
from fleet.spec import ClusterSpec, FleetSpec, NodeSpec, StoreSpec
from history.errors import FleetError, Refused, UsageError
from history.records import ClusterFacts, FleetFacts, NodeFacts, Placement, Target

MIB = 1024 * 1024


@dataclass
class Scripted:
    """A cluster that answers what it is told to; it counts how often it was touched."""

    name: str
    marker: Any = "blackstart.drills=allowed"
    reach: Reachability = field(default_factory=lambda: Reachability(True, {"n1": True}, "all answer"))
    replicas: tuple[Placement, ...] = ()
    hosts: tuple[str, ...] = ("10.9.0.1",)
    dead: bool = False
    touched: list[str] = field(default_factory=list)

    @property
    def signatures(self) -> tuple[str, ...]:
        return ("refused",)

    def opted_in(self) -> Any:
        if isinstance(self.marker, Exception):
            raise self.marker
        return self.marker

    def describe(self) -> ClusterFacts:
        urls = tuple(f"http://{host}:80/healthz" for host in self.hosts)
        return ClusterFacts(self.name, (NodeFacts("n1", 4),), urls[0] if urls else "", urls)

    def reachable(self) -> Reachability:
        if self.dead:
            raise FleetError(f"cluster {self.name}: its API does not answer")
        return self.reach

    def placements(self) -> tuple[Placement, ...]:
        return self.replicas

    def watch(self, emit: Emit, stop: threading.Event) -> None:
        self.touched.append("watch")

    def power_off(self, signature: str) -> None:
        self.touched.append("power_off")


class Unmarked:
    """A cluster that never heard of opting in."""

    name = "cobalt"

    def describe(self) -> ClusterFacts:
        return ClusterFacts("cobalt", (), "", ())


class ScriptedFleet:
    """As many clusters as the spec names, all whole."""

    environment = "scripted"
    controller = None
    prometheus_absent = ""

    def __init__(self, spec: FleetSpec, **changes: Any) -> None:
        self.spec = spec
        self.entry = changes.pop("entry", "http://192.0.2.1:80")
        self.prometheus_url = changes.pop("prometheus", "http://192.0.2.2:9090")
        placements = placements_planned(spec)
        self.clusters: tuple[Any, ...] = tuple(
            Scripted(c.name, replicas=tuple(p for p in placements if p.cluster == c.name)) for c in spec.clusters
        )

    def target(self) -> Target:
        return Target(self.entry)

    def facts(self) -> FleetFacts:
        return FleetFacts(self.spec.name, (), self.spec.model_facts(), ())

    def start(self, say: Say) -> None:
        raise AssertionError("nothing may be started")

    def died(self) -> tuple[str, ...]:
        return ()

    def stop(self) -> None:
        raise AssertionError("nothing may be stopped")


def renamed(*names: str) -> FleetSpec:
    """The micro fleet with other names for amber, cobalt and jade, and more clusters with no model."""
    base = fleets.micro()
    new = dict(zip(fleets.CLUSTERS, names, strict=False))
    clusters = tuple(ClusterSpec(new.get(c.name, c.name), c.nodes) for c in base.clusters)
    clusters += tuple(ClusterSpec(name, (NodeSpec(f"x{i}", 4, 16 * MIB),)) for i, name in enumerate(names[3:]))
    models = tuple(replace(m, homes=tuple(new.get(h, h) for h in m.homes)) for m in base.models)
    return replace(base, clusters=clusters, models=models)


def drill(*faults: Any, fleet: FleetSpec | None = None, radius: BlastRadius | None = None, steps: Any = None) -> Drill:
    """A drill that injects these faults one after the other."""
    return Drill(
        name="some-drill",
        fleet=fleet or fleets.micro(),
        load=OpenLoop(rate_rps=100),
        steps=steps or [Baseline(seconds=1), *(Inject(fault) for fault in faults), Observe(at_most_s=60)],
        objectives=[o.lost(at_most=500)],
        blast_radius=radius or BlastRadius(),
    )


def look(
    of: Drill,
    *,
    protected: tuple[str, ...] = (),
    confirmed: tuple[str, ...] = (),
    impossible: tuple[str, ...] = (),
    locks: Locks | None = None,
    **changes: Any,
) -> tuple[Refusal, ...]:
    """What would be refused before the start. ``changes``: of the cluster cobalt; ``entry``/``prometheus``: URLs."""
    fleet = ScriptedFleet(of.fleet, **{k: changes.pop(k) for k in ("entry", "prometheus") if k in changes})
    if cluster := changes.pop("cluster", None):
        fleet.clusters = (fleet.clusters[0], cluster, fleet.clusters[2])
    for name, value in changes.items():
        setattr(fleet.clusters[1], name, value)
    found = before(
        of,
        fleet,
        protected=Protected(tuple((pattern, "a test") for pattern in protected)),
        confirmed=confirmed,
        locks=locks,
        lock_targets=("local",),
        impossible=impossible,
    )
    assert not any(getattr(cluster, "touched", []) for cluster in fleet.clusters)
    return found


COBALT = drill(PowerLoss("cobalt"))
STORE = drill(WeightStoreBrownout("weights"))
OK = ("cobalt",)
ENTRY = "http://10.9.0.1:1"
THREE = BlastRadius(clusters=1, survivors=3)


def named(target: str, *others: str) -> Drill:
    """A drill against ``target`` in a fleet that has ``others`` besides."""
    names = [others[0] if others else "zephyr", target, "quarry", *others[1:]]
    return drill(PowerLoss(target), fleet=renamed(*names))


WRONG: list[tuple[str, str, Callable[[], tuple[Refusal, ...]]]] = [
    # no opt-in marker
    ("a cluster without a marker", "opt-in", lambda: look(COBALT, marker="")),
    ("a marker of blanks", "opt-in", lambda: look(COBALT, marker="  ")),
    ("a marker that is None", "opt-in", lambda: look(COBALT, marker=None)),
    ("a marker that is no text", "opt-in", lambda: look(COBALT, marker=True)),
    ("a marker that cannot be read", "opt-in", lambda: look(COBALT, marker=FleetError("no route to its API"))),
    ("a cluster that never heard of markers", "opt-in", lambda: look(COBALT, cluster=Unmarked())),
    ("freezing one without a marker", "opt-in", lambda: look(drill(Freeze("cobalt")), marker="")),
    ("the second of two victims has none", "opt-in", lambda: look(two_victims(), marker="")),
    # protected
    ("protected by name", "protected", lambda: look(COBALT, protected=("cobalt",))),
    ("protected by pattern", "protected", lambda: look(COBALT, protected=("co*",))),
    ("protected by a question mark", "protected", lambda: look(COBALT, protected=("c?balt",))),
    ("protected by a class of letters", "protected", lambda: look(COBALT, protected=("[a-d]obalt",))),
    ("protected whatever the case", "protected", lambda: look(COBALT, protected=("COBALT",))),
    ("everything is protected", "protected", lambda: look(COBALT, protected=("*",))),
    ("protected, and confirmed all the same", "protected", lambda: look(COBALT, protected=("cobalt",), confirmed=OK)),
    ("protected under look-alike letters", "protected", lambda: look(named("prod-l", "jade"), protected=("prod-1",))),
    ("a pattern under look-alike letters", "protected", lambda: look(named("pr0d-eu", "jade"), protected=("prod-*",))),
    ("a protected store", "protected", lambda: look(STORE, protected=("weights",))),
    ("the second of two victims is protected", "protected", lambda: look(two_victims(), protected=("cobalt",))),
    # look-alikes
    ("one letter more", "look-alike", lambda: look(named("ambers", "amber"))),
    ("one letter less", "look-alike", lambda: look(named("jad", "jade", "zephyr"))),
    ("one letter changed", "look-alike", lambda: look(named("ember", "amber"))),
    ("two letters swapped", "look-alike", lambda: look(named("abmer", "amber"))),
    ("two letters changed", "look-alike", lambda: look(named("eu-west-12", "eu-west-34"))),
    ("numbered", "look-alike", lambda: look(named("cluster-1", "cluster-2"))),
    ("the beginning of another", "look-alike", lambda: look(named("prod", "prod-europe"))),
    ("another with a tail", "look-alike", lambda: look(named("prod-europe", "prod"))),
    ("zero for o", "look-alike", lambda: look(named("c0ba1t", "cobalt"))),
    ("one for l", "look-alike", lambda: look(named("a11-1111", "all-llll"))),
    ("i for l", "look-alike", lambda: look(named("iiiiii", "llllll"))),
    ("rn for m", "look-alike", lambda: look(named("rnarnrna", "mamma"))),
    ("vv for w", "look-alike", lambda: look(named("vvavvavv", "wawaw"))),
    ("cl for d", "look-alike", lambda: look(named("aclaclacl", "adadad"))),
    ("Cyrillic", "look-alike", lambda: look(named("\u0441\u043e\u0440\u0435", "cope"))),
    ("Cyrillic alone in its fleet", "look-alike", lambda: look(named("\u0441\u043e\u0440\u0435", "zephyr"))),
    ("Greek", "look-alike", lambda: look(named("\u03bf\u03c1\u03b5\u03b7\u03bf", "openo"))),
    ("accents", "look-alike", lambda: look(named("\u00e1m\u00f3\u00e9\u00f6", "amoeo"))),
    ("full-width letters", "look-alike", lambda: look(named("\uff4a\uff41\uff44\uff45", "jade"))),
    ("an invisible letter", "look-alike", lambda: look(named("ja\u200bde\u2060", "jade"))),
    ("case alone", "look-alike", lambda: look(named("JADE", "jade"))),
    ("another dash", "look-alike", lambda: look(named("a\u2011b\u2011c\u2011d", "a-b-c-d"))),
    ("low lines for dashes", "look-alike", lambda: look(named("a_b_c_d", "a-b-c-d"))),
    ("like a protected name of another fleet", "look-alike", lambda: look(COBALT, protected=("kobalt",))),
    ("a look-alike among many", "look-alike", lambda: look(named("ruby", "onyx", "rubi", "topaz"))),
    ("another name confirmed", "look-alike", lambda: look(named("ambers", "amber"), confirmed=("amber",))),
    ("confirmed in other letters", "confirm", lambda: look(named("ambers", "amber"), confirmed=("Ambers",))),
    ("confirmed with a slip", "confirm", lambda: look(COBALT, confirmed=("cobolt",))),
    ("confirmed as nothing", "confirm", lambda: look(COBALT, confirmed=("",))),
    ("a store like a protected name", "look-alike", lambda: look(STORE, protected=("weight",))),
    # too much
    ("two at once", "blast radius", lambda: look(drill(PowerLoss("cobalt"), Freeze("jade")))),
    ("two at once after a restore", "blast radius", lambda: look(again_two())),
    ("all, where one must survive", "survivors", lambda: look(all_three(survivors=1))),
    ("one of three, where three must survive", "survivors", lambda: look(drill(PowerLoss("cobalt"), radius=THREE))),
    # the observer
    ("the entry point in the victim", "observer", lambda: look(COBALT, entry="http://10.9.0.1:8000")),
    ("Prometheus in the victim", "observer", lambda: look(COBALT, prometheus="http://10.9.0.1:9090")),
    ("the entry point on a node of it", "observer", lambda: look(COBALT, hosts=("10.9.0.2", "10.9.0.1"), entry=ENTRY)),
    # others
    ("another drill holds the lock", "lock", lambda: look(COBALT, locks=Held())),
    ("an impossible objective", "objectives", lambda: look(COBALT, impossible=("recovered[ft] is impossible",))),
]


class Held(Locks):
    """Somebody has the lock."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))

    def require_free(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        raise Refused(f"another drill holds {targets[0]}", hint="wait until it ends")


def two_victims() -> Drill:
    steps = [Baseline(seconds=1), Inject(PowerLoss("jade")), Restore("jade"), Inject(PowerLoss("cobalt"))]
    return drill(steps=steps)


def again_two() -> Drill:
    return drill(steps=[*two_victims().steps, Inject(Freeze("amber"))])


def all_three(survivors: int) -> Drill:
    radius = BlastRadius(clusters=3, survivors=survivors)
    return drill(*(PowerLoss(name) for name in fleets.CLUSTERS), radius=radius)


def two_stores() -> FleetSpec:
    return replace(fleets.micro(), stores=(StoreSpec("west-1", 1e6), StoreSpec("west-2", 1e6)))


@pytest.mark.parametrize(("kind", "attempt"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_target_is_refused_with_its_next_step(kind: str, attempt: Callable[[], tuple[Refusal, ...]]) -> None:
    found = attempt()
    assert kind in {refusal.kind for refusal in found}
    assert all(refusal.text and refusal.hint for refusal in found)
    with pytest.raises(Refused) as caught:
        refuse(found)
    assert caught.value.hint
    assert caught.value.exit_code == 4


def test_there_are_at_least_forty_of_them_and_each_is_another_one() -> None:
    assert len({row[0] for row in WRONG}) == len(WRONG) >= 40


RIGHT: dict[str, Callable[[], tuple[Refusal, ...]]] = {
    "power loss of one of three": lambda: look(COBALT),
    "freeze": lambda: look(drill(Freeze("jade"))),
    "nothing at all": lambda: look(drill(Noop("amber"))),
    "two, one after the other": lambda: look(two_victims()),
    "two at once, as declared": lambda: look(
        drill(PowerLoss("cobalt"), PowerLoss("jade"), radius=BlastRadius(clusters=2))
    ),
    "a black start, as declared": lambda: look(all_three(survivors=0)),
    "a look-alike that was confirmed": lambda: look(named("ambers", "amber"), confirmed=("ambers",)),
    "Cyrillic that was confirmed": lambda: look(
        named("\u0441\u043e\u0440\u0435"), confirmed=("\u0441\u043e\u0440\u0435",)
    ),
    "confirmed although nobody asked": lambda: look(COBALT, confirmed=("cobalt",)),
    "others are protected": lambda: look(COBALT, protected=("prod-*", "jade")),
    "a store": lambda: look(STORE),
    "a store beside its copies": lambda: look(drill(WeightStoreBrownout("west-1"), fleet=two_stores())),
    "all on one shared loopback address": lambda: look(COBALT, hosts=("127.0.0.1",), entry="http://127.0.0.1:1"),
    "look-alikes among the others": lambda: look(drill(PowerLoss("quarry"), fleet=renamed("eu-1", "eu-2", "quarry"))),
    "no Prometheus": lambda: look(COBALT, prometheus=None),
}


@pytest.mark.parametrize("attempt", RIGHT.values(), ids=RIGHT)
def test_a_legitimate_drill_may_start(attempt: Callable[[], tuple[Refusal, ...]]) -> None:
    found = attempt()
    assert found == ()
    refuse(found)


def test_all_reasons_come_at_once() -> None:
    found = look(named("ambers", "amber"), marker="", protected=("ambers",), entry="http://10.9.0.1:1")
    assert {refusal.kind for refusal in found} == {"opt-in", "protected", "look-alike", "observer"}
    with pytest.raises(Refused, match="4 reasons not to start") as caught:
        refuse(found)
    assert len(caught.value.problems) == 4
    assert all("Next: " in problem for problem in caught.value.problems)


def test_this_machine_in_the_victim_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_own_addresses", lambda: {"10.9.0.1"})
    (found,) = look(COBALT)
    assert found.kind == "observer"
    assert "lock, load and journal would die with it" in found.text


# -- at the gate: the fleet runs, and nothing was injected yet --------------------------------------------------------


def short_of_one(cluster: Scripted) -> None:
    cluster.replicas = cluster.replicas[1:]


def not_ready(cluster: Scripted) -> None:
    cluster.replicas = (replace(cluster.replicas[0], ready=False), *cluster.replicas[1:])


def silent_node(cluster: Scripted) -> None:
    cluster.reach = Reachability(True, {"n1": True, "n2": False}, "n2: refused")


def silent_api(cluster: Scripted) -> None:
    cluster.reach = Reachability(False, {"n1": True}, "the API: refused")


def dead(cluster: Scripted) -> None:
    cluster.dead = True


@pytest.mark.parametrize("change", [short_of_one, not_ready, silent_node, silent_api, dead])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_fleet_that_is_not_whole_is_refused(change: Callable[[Scripted], None], where: int) -> None:
    fleet = ScriptedFleet(COBALT.fleet)
    assert at_the_gate(COBALT, fleet) == ()
    change(fleet.clusters[where])
    found = at_the_gate(COBALT, fleet)
    assert {refusal.kind for refusal in found} == {"steady state"}
    assert "nothing was injected" in found[0].hint


def test_at_the_gate_marker_and_addresses_are_asked_again() -> None:
    fleet = ScriptedFleet(COBALT.fleet, entry="http://10.9.0.7:1")
    fleet.clusters[1].marker, fleet.clusters[1].hosts = "", ("10.9.0.7",)
    assert {refusal.kind for refusal in at_the_gate(COBALT, fleet)} == {"opt-in", "observer"}


# -- whose list protects ----------------------------------------------------------------------------------------------


def test_protection_comes_from_the_environment_and_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "blackstart.toml").write_text("[protected]\nnames = ['jade', 'prod-*']\n")
    protected = Protected.read(tmp_path, {"BLACKSTART_PROTECTED": " onyx , eu-?,"})
    assert protected.why("jade") == "'jade' in blackstart.toml"
    assert protected.why("eu-1") == "'eu-?' in $BLACKSTART_PROTECTED"
    assert [bool(protected.why(name)) for name in ("prod-", "onyx", "cobalt")] == [True, True, False]
    assert protected.names == ("onyx", "jade")
    assert Protected.read(tmp_path.parent, {}).patterns == ()


@pytest.mark.parametrize(
    "text",
    [
        "[protected",
        "protected = 'jade'\n",
        "[protected]\nnames = 'jade'\n",
        "[protected]\nname = ['jade']\n",
        "[protected]\nnames = [1]\n",
        "[protected]\nnames = ['']\n",
        "\xff",
    ],
)
def test_a_damaged_list_is_never_taken_for_an_empty_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "blackstart.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"blackstart\.toml") as caught:
        Protected.read(tmp_path, {})
    assert "[protected] names" in caught.value.hint


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other", "distance"), [("amber", "ember", 1), ("jade", "cobalt", 5), ("", "ab", 2)])
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == distance


def test_the_names_of_the_ready_made_fleets_are_distinct() -> None:
    for one in fleets.CLUSTERS:
        assert [other for other in fleets.CLUSTERS if look_alike(one, other)] == []
    assert skeleton("Pr0d_EU") == skeleton("prod-eu")


def test_the_gate_is_asked_before_the_first_injection_and_for_survivors_before_each() -> None:
    fleet, injected = ScriptedFleet(COBALT.fleet), []
    session = Session.__new__(Session)  # only what inject needs
    parts = {"plan": SimpleNamespace(drill=COBALT), "fleet": fleet, "_may_inject": False}
    parts["_injector"] = SimpleNamespace(hurt=(), inject=lambda fault, pulse: injected.append(fault.cluster))
    vars(session).update(parts)
    fleet.clusters[0].dead = True
    with pytest.raises(Refused, match="reasons not to start") as caught:
        session.inject(COBALT.faults[0], lambda: None)
    assert "cluster 'amber' does not answer" in caught.value.problems[0]
    assert injected == []
    fleet.clusters[0].dead = False
    session.inject(COBALT.faults[0], lambda: None)
    fleet.clusters[1].dead = True  # hurt now, as the drill wants it
    session.inject(COBALT.faults[0], lambda: None)
    assert injected == ["cobalt", "cobalt"]
    for cluster in fleet.clusters:
        cluster.dead = cluster.name != "cobalt"
    with pytest.raises(RunStopped, match=r"0 of 3 clusters would survive the loss of cobalt; .* does not answer"):
        session.inject(COBALT.faults[0], lambda: None)
    assert injected == ["cobalt", "cobalt"]


def test_brackets_of_a_pattern_name_their_letters_and_no_lookalikes() -> None:
    assert Protected((("[!t]*", "here"),)).why("test-1") == ""
    assert Protected((("prod-[1-3]", "here"),)).why("prod-2")
    assert Protected((("prod-[1-3]", "here"),)).why("prod-s") == ""


def test_what_a_lock_refuses_is_not_forecast_as_gone() -> None:
    fleet = fleets.three_clusters(headroom=0)
    assert taken_at_once(drill(Destroy("cobalt", refused=True), fleet=fleet)) == (("cobalt",),)
    assert not takes_cluster(Destroy("cobalt", refused=True).mark(None))
    assert takes_cluster(Destroy("cobalt").mark(None))
