"""Names that stand for another: spellings of one host, both names of a fault, look-alikes; and whose list counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drills.engine.commands.main import main
from drills.engine.commands.options import fleet_of
from drills.engine.nouns import Baseline, Inject, Observe, PowerLoss, Restore
from drills.engine.nouns import objectives as o
from drills.engine.safety import refusals
from drills.engine.safety.lookalike import look_alike
from drills.engine.safety.refusals import Protected, Refusal, refuse
from history.errors import Refused, UsageError
from tests.drills.test_refusals import COBALT, drill, look, named

DNS = {"gw.example": ("10.9.0.1",), "other.example": ("10.9.9.9",)}


@dataclass(frozen=True)
class Aside(PowerLoss):
    """A fault whose target is not the cluster that it hits."""

    @property
    def cluster(self) -> str:
        return "cobalt"


def kinds(found: tuple[Refusal, ...]) -> set[str]:
    return {refusal.kind for refusal in found}


@pytest.mark.parametrize(
    ("hosts", "entry", "dies"),
    [
        (("10.9.0.1",), "http://gw.example:80", True),
        (("10.9.0.1",), "http://GW.example.:80", True),
        (("gw.example",), "http://10.9.0.1:80", True),
        (("gw.example",), "http://GW.EXAMPLE.:80", True),
        (("nowhere.example",), "http://nowhere.example.:80", True),
        (("[fd00::1]",), "http://[fd00:0:0::1]:80", True),
        (("10.9.0.1",), "http://[::ffff:10.9.0.1]:80", True),
        (("10.9.0.1",), "http://other.example:80", False),
        (("127.0.0.1",), "http://localhost:80", False),
    ],
)
def test_one_host_has_many_spellings(
    hosts: tuple[str, ...], entry: str, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        refusals, "addresses", lambda host: DNS.get(host, ("127.0.0.1",) if host == "localhost" else ())
    )
    assert ("observer" in kinds(look(COBALT, hosts=hosts, entry=entry))) is dies


def test_addresses_of_a_name_are_what_the_resolver_says() -> None:
    assert "127.0.0.1" in refusals.addresses("localhost")
    assert refusals.addresses("no such name") == ()


def test_both_names_of_a_fault_are_looked_at() -> None:
    evil = drill(Aside("zzzzzzzz"))
    assert kinds(look(evil, protected=("cobalt",))) == {"protected"}
    assert kinds(look(evil, protected=("kobalt",))) == {"look-alike"}
    assert look(evil, protected=("kobalt",), confirmed=("cobalt",)) == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("666666", "bbbbbb"),
        ("jade-222", "jade-zzz"),
        ("999999", "gggggg"),
        ("oooo", "օօօօ"),
        ("nnnnn", "ոոոոո"),
        ("uuuuu", "սսսսս"),
        ("sssss", "ꜱꜱꜱꜱꜱ"),
        ("rakes", "ʀᴀᴋᴇꜱ"),
    ],
)
def test_shapes_of_digits_other_alphabets_and_small_capitals(one: str, other: str) -> None:
    assert look_alike(one, other) == "the same shapes: letters that look alike"


def test_strange_letters_in_the_other_name_want_a_confirmation_too() -> None:
    found = look(named("quartz", "жюжюжю"))
    assert kinds(found) == {"look-alike"}
    assert "CYRILLIC SMALL LETTER ZHE" in found[0].text
    assert look(named("quartz", "жюжюжю"), confirmed=("quartz",)) == ()


@pytest.mark.parametrize("text", ["[protect]\nnames = ['jade']\n", "", "[protected]\n", "names = ['jade']\n"])
def test_a_list_that_says_nothing_is_a_mistake(text: str, tmp_path: Path) -> None:
    (tmp_path / "blackstart.toml").write_text(text)
    with pytest.raises(UsageError, match=r"blackstart\.toml cannot be read"):
        Protected.read(tmp_path, {})


def test_lists_in_folders_above_and_beside_the_drill_count(tmp_path: Path) -> None:
    inside, beside = tmp_path / "a" / "b", tmp_path / "else" / "drills"
    inside.mkdir(parents=True)
    beside.mkdir(parents=True)
    (tmp_path / "a" / "blackstart.toml").write_text("[protected]\nnames = ['jade']\n")
    (tmp_path / "else" / "blackstart.toml").write_text("[protected]\nnames = ['amber']\n")
    found = Protected.read(inside, {}, beside)
    assert found.names == ("jade", "amber")
    assert found.why("jade") == f"'jade' in {tmp_path / 'a' / 'blackstart.toml'}"
    assert Protected.read(inside, {}).names == ("jade",)


def test_the_same_next_step_is_said_once() -> None:
    hint, other = "give the survivors more room", "restore it first"
    found = [Refusal("objectives", text, hint) for text in ("one", "two")] + [Refusal("lock", "three", other)]
    with pytest.raises(Refused) as caught:
        refuse(found)
    assert caught.value.problems == (
        "one (objectives)",
        f"two (objectives). Next: {hint}",
        f"three (lock). Next: {other}",
    )


@pytest.mark.parametrize(
    "entry", ["amber cobalt", '["cobalt"]', "cobalt;amber", "cobalt.", "'cobalt'", "[cobalt]", "cob[alt", "a\nb", "-"]
)
def test_an_entry_that_can_be_no_name_is_never_taken_for_nothing(entry: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="what is protected is not clear") as caught:
        Protected.read(tmp_path, {"BLACKSTART_PROTECTED": f"jade, {entry}"})
    assert caught.value.problems == (f"{entry!r} in $BLACKSTART_PROTECTED",)
    assert "separate names by commas" in caught.value.hint


@pytest.mark.parametrize("entry", ["cobalt", "eu-?", "*", "prod[0-9]", "[!a]x", "arn:aws:eks:eu/jade", "яшма"])
def test_names_and_patterns_of_all_kinds_protect(entry: str, tmp_path: Path) -> None:
    assert Protected.read(tmp_path, {"BLACKSTART_PROTECTED": entry}).patterns == ((entry, "$BLACKSTART_PROTECTED"),)


def test_a_protected_target_is_refused_for_that_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLACKSTART_PROTECTED", "COBALT")
    assert main(["run", "cluster-loss"]) == 4
    err = capsys.readouterr().err
    assert "target 'cobalt' is protected by 'COBALT' in $BLACKSTART_PROTECTED (protected)" in err
    assert "look-alike" not in err


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            "three-cluster",
            "there is no fleet 'three-cluster'",
            "did you mean three-clusters? give a .toml file or one of",
        ),
        ("zzz", "there is no fleet 'zzz'", "give a .toml file or one of"),
        (
            "three-clusters:headrom=0",
            "headrom=0 is no argument",
            "did you mean headroom? three-clusters takes headroom=INT",
        ),
        ("three-clusters:headroom=many", "headroom=many is no argument", "did you mean headroom? three-clusters takes"),
        ("three-clusters:headroom", "headroom= is no argument", "did you mean headroom? three-clusters takes"),
        ("micro:x=1", "x=1 is no argument", "micro takes no argument"),
    ],
)
def test_a_mistyped_fleet_names_the_nearest(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        fleet_of(text)
    assert caught.value.hint.startswith(hint)


def test_a_mistyped_cluster_or_model_names_the_nearest() -> None:
    wrong = replace(
        drill(steps=[Baseline(seconds=1), Inject(PowerLoss("cobolt")), Observe(at_most_s=9), Restore("cobold")]),
        objectives=[o.recovered(scope="model:chut", within_s=5)],
    )
    said = " / ".join(problem.text for problem in wrong.problems())
    for part in (
        "cobalt? it has amber",
        "Restore('cobold'): did you mean cobolt?",
        "no model 'chut'; did you mean chat?",
    ):
        assert part in said
    with pytest.raises(UsageError) as caught:
        COBALT.fleet.cluster("cobolt")
    assert caught.value.hint == "did you mean cobalt? its clusters are: amber, cobalt, jade"
