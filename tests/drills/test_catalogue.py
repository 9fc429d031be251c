"""The catalogue: every drill reads well, plans cleanly where it can run, and is refused or forewarned where not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from drills.engine.commands.options import fleet_of
from drills.engine.nouns import Drill
from drills.engine.safety.loader import DrillFile, find_all, load
from drills.engine.safety.plan import Plan, make_plan
from history.errors import Refused

ROOT = Path(__file__).parents[2]
LINES = 80
SHOWN_PLAYBOOK = 300
"""The page cuts a playbook there."""


def _catalogue() -> ModuleType:
    spec = importlib.util.spec_from_file_location("blackstart_catalogue", ROOT / "scripts" / "catalogue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


catalogue = _catalogue()
FILES = {name: file for name, file in find_all(Path("/")).items() if file.path.parent == ROOT / "drills"}
CASES = tuple(catalogue.cases(FILES))
SIBLINGS = tuple(dict.fromkeys(case.drill for case in CASES))
UNREADY = tuple(case for case in CASES if case.fleet)


def planned(file: DrillFile, fleet: str = "") -> Plan:
    return make_plan(file, "local", 1, fleet_of(fleet) if fleet else None, expect_fail=True)


def drill_of(name: str) -> Drill:
    return load(FILES[name])


def test_every_sibling_of_the_issue_is_there() -> None:
    wanted = {
        "beyond-headroom",
        "cold-cache",
        "return-of-the-cluster",
        "readmission-surge",
        "gray-failure",
        "partition",
    }
    wanted |= {"control-plane-cut", "false-restore", "weight-store-brownout", "rebuild-from-scratch"}
    assert set(SIBLINGS) == wanted | {"corrupt-weights", "thundering-herd", "cable-pull"}


@pytest.mark.parametrize("name", FILES)
def test_a_drill_says_what_it_is_and_what_to_do(name: str) -> None:
    assert FILES[name].summary.endswith((".", ":", "it", "them")) or len(FILES[name].summary) > 30
    drill = drill_of(name)
    assert drill.name == name
    if name not in SIBLINGS and name != "cluster-loss":
        return
    assert FILES[name].text.count("\n") <= LINES
    playbooks = [objective.spec.playbook for objective in drill.objectives]
    assert all(40 < len(text) <= SHOWN_PLAYBOOK for text in playbooks), [len(text) for text in playbooks]
    assert len(set(playbooks)) == len(playbooks)


@pytest.mark.parametrize("name", [name for name in SIBLINGS if catalogue.NEEDS_KIND not in FILES[name].text])
def test_a_sibling_plans_cleanly_and_its_fleet_is_ready_as_far_as_can_be_known(name: str) -> None:
    plan = planned(FILES[name])
    assert plan.expectation.verdict == "pass"
    assert plan.drill.longest_s() <= 60


@pytest.mark.parametrize("case", UNREADY, ids=lambda case: case.drill)
def test_an_unready_fleet_is_a_sound_fleet_that_lacks_one_thing(case: object) -> None:
    name, fleet = case.drill, case.fleet  # type: ignore[attr-defined]
    plan = planned(FILES[name], fleet)
    assert plan.drill.fleet.problems() == ()
    assert plan.drill.fleet != drill_of(name).fleet
    assert plan.drill.fleet.name.removesuffix("-no-headroom") == fleet.partition(":")[0]


def test_what_exceeds_the_headroom_is_said_before_anything_is_touched() -> None:
    (ready,) = planned(FILES["beyond-headroom"]).forecasts
    assert [model.model for model in ready.models if not model.fits] == ["ft-davinci"]
    unready = planned(FILES["beyond-headroom"], "tight:priorities=0")
    assert [model.model for model in unready.forecasts[0].models if not model.fits] == ["embed"]
    assert unready.expectation.verdict == "fail"
    assert "class:embeddings" in unready.expectation.text


def test_a_cold_pool_is_forecast_to_take_longer_than_it_may() -> None:
    rows = {row.model: row for row in planned(FILES["cold-cache"], "many-fine-tunes:copies=1").forecasts[0].models}
    limit = next(o.spec.limit for o in drill_of("cold-cache").objectives if o.spec.indicator == "warm")
    assert (rows["ft-curie"].reload_s or 0) > limit
    ready = {row.model: row for row in planned(FILES["cold-cache"]).forecasts[0].models}
    assert not ready["ft-curie"].reload_bytes


def test_a_herd_without_single_flight_is_forecast_to_move_its_weights_once_a_replica() -> None:
    def mib(fleet: str) -> float:
        return planned(FILES["thundering-herd"], fleet).forecasts[0].models[0].reload_bytes / 2**20

    assert (mib(""), mib("herd:single_flight=0")) == (8, 24)  # two nodes; six replicas


@pytest.mark.parametrize("name", [name for name in SIBLINGS if catalogue.NEEDS_KIND in FILES[name].text])
def test_what_needs_kubernetes_is_refused_in_local_and_says_where_it_runs(name: str) -> None:
    with pytest.raises(Refused) as caught:
        planned(FILES[name])
    assert any("--env kind" in problem for problem in caught.value.problems)


def test_the_readme_names_every_drill_with_its_unready_fleet() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    for name in SIBLINGS:
        fleet = catalogue.NOT_READY.search(FILES[name].text).group(1)
        assert any(f"`{name}`" in row and f"`{fleet}`" in row for row in rows), name


def test_cases_are_ready_unready_and_refused() -> None:
    file = next(iter(FILES.values()))
    text = '"""One.\n\nNot ready: --fleet small:stores=1 (why).\n"""'

    def made(text: str, kind: bool = False) -> list[tuple[str, str, int]]:
        files = {"one": DrillFile("one", file.path, "One.", text)}
        return [(case.drill, case.fleet, case.expected) for case in catalogue.cases(files, kind)]

    assert made(text) == [("one", "", 0), ("one", "small:stores=1", 1)]
    assert made(f"{text}\n{catalogue.NEEDS_KIND}") == [("one", "", 4)]
    assert len(made(f"{text}\n{catalogue.NEEDS_KIND}", kind=True)) == 2
    assert made('"""Another."""') == []
