"""FleetSpec: every problem at once, with value and rule; TOML files with every mistake at once."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import fleets
from fleet.spec import ClusterSpec, FleetSpec, LinkSpec, ModelSpec, NodeSpec, StoreSpec, Switches
from history.errors import UsageError

SOUND = fleets.micro()


def with_model(**changes: object) -> FleetSpec:
    """The sound fleet with its first model changed."""
    first = replace(SOUND.models[0], **changes)  # type: ignore[arg-type]
    return replace(SOUND, models=(first, *SOUND.models[1:]))


def only_problem(spec: FleetSpec) -> str:
    problems = spec.problems()
    assert len(problems) == 1, problems
    return problems[0]


def test_the_ready_made_fleets_are_sound() -> None:
    for spec in (SOUND, fleets.three_clusters(), fleets.three_clusters(headroom=0)):
        assert spec.problems() == ()
        assert spec.validated() is spec


@pytest.mark.parametrize(
    ("spec", "quoted"),
    [
        (replace(SOUND, clusters=()), ("has no cluster", "at least 1")),
        (replace(SOUND, stores=()), ("has no weight store",)),
        (with_model(share=0.5), ("sum to 1.1", "the rule is 1")),
        (with_model(gpus=5), ("needs 5 GPUs on one node", "amber-n1 with 4")),
        (with_model(weight_bytes=17 * 1024 * 1024), ("17825792 bytes", "16777216")),
        (with_model(fallback="gpt"), ("'gpt' is no model", "chat, code, curie, embed")),
        (with_model(fallback="chat"), ("fallback is itself",)),
        (with_model(homes=("amber", "ruby", "jade")), ("home 'ruby' is no cluster", "amber, cobalt, jade")),
        (with_model(replicas=0), ("replicas is 0", "1 to 64")),
        (with_model(kind="image"), ("kind 'image'", "chat, completion, embedding")),
        (with_model(slots=0), ("slots is 0", "more than 0")),
        (with_model(queue=-1), ("queue is -1", "0 or more")),
        (replace(SOUND, models=(*SOUND.models, replace(SOUND.models[0], share=0.0, gpus=1))), ("used 2 times",)),
        (replace(SOUND, name="Micro Fleet"), ("'Micro Fleet'", "small letters")),
        (replace(SOUND, links=(LinkSpec("disk", 1e6),)), ("'disk'", "weights")),
        (replace(SOUND, links=(LinkSpec("weights", 1e6),)), ("would never be used",)),
        (replace(SOUND, stores=(StoreSpec("weights", 0),)), ("egress_bytes_s is 0",)),
        (replace(SOUND, stores=(StoreSpec("weights", 1e6, cluster="ruby"),)), ("'ruby' is no cluster",)),
        (replace(SOUND, switches=Switches(reaction="magic")), ("'magic'", "automatic or manual")),  # type: ignore[arg-type]
        (replace(SOUND, switches=Switches(detect_interval_s=0)), ("detect_interval_s is 0",)),
    ],
)
def test_a_problem_quotes_value_and_rule(spec: FleetSpec, quoted: tuple[str, ...]) -> None:
    problems = "\n".join(spec.problems())
    for part in quoted:
        assert part in problems


def test_a_fleet_that_cannot_hold_its_models_says_the_numbers() -> None:
    problem = only_problem(with_model(gpus=2))
    assert "even with all clusters up" in problem
    assert "embed-1 needs 1 GPU(s) on one node of its home cobalt" in problem
    assert "cobalt-n1 0" in problem


def test_all_problems_come_at_once() -> None:
    spec = replace(with_model(share=0.9, fallback="gpt", gpus=99), stores=(), name="!")
    assert len(spec.problems()) == 7  # name, store, shares, fallback, and a node too small in each of three homes
    with pytest.raises(UsageError) as caught:
        spec.validated()
    assert caught.value.problems == spec.problems()
    assert "7 problems" in caught.value.message


@given(
    st.builds(
        FleetSpec,
        name=st.text(max_size=5),
        clusters=st.lists(
            st.builds(
                ClusterSpec,
                st.sampled_from(["amber", "cobalt", "jade", "amder", ""]),
                st.lists(
                    st.builds(NodeSpec, st.sampled_from(["a", "b", "c"]), st.integers(-1, 9), st.integers(-1, 9)),
                    max_size=2,
                ).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        models=st.lists(
            st.builds(
                ModelSpec,
                name=st.sampled_from(["m", "n", ""]),
                kind=st.sampled_from(["chat", "embedding"]),
                model_class=st.just("base"),
                weight_bytes=st.integers(-1, 9),
                gpus=st.integers(-1, 9),
                replicas=st.integers(-1, 3),
                share=st.floats(0, 1),
                homes=st.lists(st.sampled_from(["amber", "ruby"]), max_size=2).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        stores=st.lists(st.builds(StoreSpec, st.sampled_from(["s", "t"]), st.floats(-1, 9)), max_size=2).map(tuple),
    )
)
def test_problems_never_raises_and_always_finds_nonsense(spec: FleetSpec) -> None:
    problems = spec.problems()
    assert all(isinstance(problem, str) and problem for problem in problems)
    nonsense = not spec.clusters or not spec.models or any(m.gpus < 1 or m.replicas < 1 for m in spec.models)
    assert problems or not nonsense


def test_names_and_unknown_names() -> None:
    assert SOUND.cluster("jade").gpus == 4
    with pytest.raises(UsageError, match="'ruby' is no cluster"):
        SOUND.cluster("ruby")
    with pytest.raises(UsageError, match="'gpt' is no model"):
        SOUND.model("gpt")


def test_mix_and_facts_carry_the_models() -> None:
    entries = SOUND.mix_entries()
    assert sum(entry.share for entry in entries) == pytest.approx(1)
    assert [entry.model for entry in entries] == [model.name for model in SOUND.models]
    assert [entry.stream for entry in entries if entry.kind == "embedding"] == [False]
    facts = {fact.name: fact for fact in SOUND.model_facts()}
    assert facts["code"].gpus == 2
    assert facts["code"].fallback == "chat"


def test_stores_are_asked_nearest_first() -> None:
    stores = (StoreSpec("far", 1, "jade"), StoreSpec("outside", 1), StoreSpec("near", 1, "amber"))
    spec = replace(SOUND, stores=stores, links=(LinkSpec("far", 7.0),))
    assert [store.name for store in spec.stores_for("amber")] == ["near", "outside", "far"]
    assert (spec.link_bytes_s("far"), spec.link_bytes_s("near")) == (7.0, 0.0)


TOML = """
name = "mine"
[switches]
peer_fetch = true
[[clusters]]
name = "amber"
nodes = [{name = "amber-n1", gpus = 4}]
[[clusters]]
name = "cobalt"
nodes = [{name = "cobalt-n1", gpus = 4, cache_bytes = 50000000}]
[[models]]
name = "chat"
kind = "chat"
model_class = "base"
weight_bytes = 1000000
share = 1.0
homes = ["amber"]
[[stores]]
name = "weights"
egress_bytes_s = 1e6
"""


def test_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(TOML)
    spec = FleetSpec.from_toml(path)
    assert spec.problems() == ()
    assert spec.clusters[1].nodes[0] == NodeSpec("cobalt-n1", 4, 50_000_000)
    assert spec.switches == Switches(peer_fetch=True)
    assert spec.models[0].homes == ("amber",)


def test_from_toml_lists_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(
        TOML.replace("gpus = 4}", 'gpus = "four"}')
        .replace('kind = "chat"', 'kind = "chatty"\ncolour = "red"')
        .replace("peer_fetch = true", "peer_fetsch = true")
        + "\n[extra]\nx = 1\n"
    )
    with pytest.raises(UsageError) as caught:
        FleetSpec.from_toml(path)
    said = "\n".join(caught.value.problems)
    for part in ("'extra'", "clusters[0] (amber)", "colour", "chatty", "peer_fetsch"):
        assert part in said


def test_one_look_finds_mistakes_of_every_kind_and_invents_none(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    text = TOML.replace("gpus = 4}", 'gpus = "four", cash_bytes = 1}').replace('kind = "chat"', 'kind = "chatty"')
    text = text.replace('homes = ["amber"]', 'homes = ["ambr"]\nslots = 0\nreplicas = "two"\nsahre = 1')
    text = text.replace('[{name = "cobalt-n1", gpus = 4, cache_bytes = 50000000}]', "5")
    path.write_text(text.replace("egress_bytes_s = 1e6", 'cluster = "jade"'))
    with pytest.raises(UsageError) as caught:
        FleetSpec.from_toml(path)
    assert len(caught.value.problems) == 10, caught.value.problems
    said = "\n".join(caught.value.problems)
    for part in (
        "clusters[0] (amber).nodes[0] (amber-n1): gpus='four': Expected `int`, got `str`",
        "'cash_bytes' is no field of it; did you mean cache_bytes? fields are",
        "kind='chatty'",
        "replicas='two'",
        "'sahre' is no field of it; did you mean share?",
        "stores[0] (weights): egress_bytes_s is missing",
        "store weights: cluster 'jade' is no cluster of the fleet (amber, cobalt)",
        "clusters[1] (cobalt): nodes=5: Expected `array`, got `int`",
        "home 'ambr' is no cluster of the fleet (amber, cobalt)",
        "slots is 0; it must be more than 0",
    ):
        assert part in said, said


@pytest.mark.parametrize("text", [None, "name = "])
def test_from_toml_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "fleet.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        FleetSpec.from_toml(path)


def test_the_commented_example_is_a_sound_fleet() -> None:
    spec = FleetSpec.from_toml(Path(__file__).parents[2] / "docs" / "fleet.toml")
    assert spec.problems() == ()
    assert [cluster.name for cluster in spec.clusters] == ["amber", "cobalt", "jade"]


def test_a_run_s_header_tells_every_switch() -> None:
    told = dict(Switches().to_facts())
    assert list(told) == [field.name for field in fields(Switches)]
    assert (told["locked"], told["reaction"], told["peer_fetch"]) == ("none", "automatic", "False")
    assert dict(Switches(locked=("amber", "jade")).to_facts())["locked"] == "amber, jade"
