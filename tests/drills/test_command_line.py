"""The command line as people meet it: exit codes, help that teaches, mistakes that are all said at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drills.engine.commands.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
FLEET = """
name = "pair"
[[clusters]]
name = "big"
nodes = [{ name = "big-n1", gpus = 8 }]
[[clusters]]
name = "little"
nodes = [{ name = "little-n1", gpus = 2 }]
[[models]]
name = "large"
kind = "chat"
model_class = "base"
weight_bytes = 1000
gpus = 4
share = 0.5
homes = ["big"]
[[models]]
name = "small"
kind = "chat"
model_class = "base"
weight_bytes = 1000
share = 0.5
homes = ["little"]
[[stores]]
name = "weights"
egress_bytes_s = 1e6
"""
EXIT_WORDS = (
    (0, "pass"),
    (1, "fail"),
    (2, "unknown"),
    (3, "the harness failed"),
    (4, "usage"),
    (130, "interrupted"),
)


def test_help_names_every_command_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"blackstart {name}" in text for name in COMMANDS)
    assert all(f"{code} {word}" in text for code, word in EXIT_WORDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert len(capsys.readouterr().out.split()) > 30


def test_an_unknown_drill_is_exit_4_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "cluster-lost"]) == 4
    assert "did you mean cluster-loss" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run"], ["jump"], ["run", "cluster-loss", "--seed", "x"], ["plan", "--nope"]])
def test_clicks_own_mistakes_are_exit_4_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 4
    assert "Usage:" in capsys.readouterr().err


def test_three_mistakes_are_all_said_with_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "three_mistakes.py"
    path.write_text(
        "from blackstart import Baseline, Drill, Inject, OpenLoop, PowerLoss, fleets\n"
        "from blackstart import objectives as o\n"
        "drill = Drill(\n"
        "    name='three-mistakes',\n"
        "    fleet=fleets.micro(),\n"
        "    load=OpenLoop(rate_rps=0),\n"
        "    steps=[Baseline(seconds=1),\n"
        "           Inject(PowerLoss('kobalt'))],\n"
        "    objectives=[o.recovered(scope='model:gpt', within_s=5)],\n"
        ")\n"
    )
    assert main(["plan", str(path)]) == 4
    err = capsys.readouterr().err
    assert "3 mistakes" in err
    assert f"{path}:6: OpenLoop: rate_rps=0" in err
    assert f"{path}:8: no cluster 'kobalt'" in err
    assert f"{path}:9: objective recovered[model:gpt]" in err
    assert "Traceback" not in err


def test_a_fleet_that_cannot_hold_its_models_is_refused_with_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "too_small.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets\n"
        "from blackstart import objectives as o\n"
        "micro = fleets.micro()\n"
        "big = replace(micro, models=tuple(replace(m, replicas=9) for m in micro.models))\n"
        "drill = Drill(name='too-small', fleet=big, load=OpenLoop(rate_rps=50),\n"
        "    steps=[Baseline(seconds=1), Inject(PowerLoss('cobalt')), Observe(at_most_s=60)],\n"
        "    objectives=[o.lost(at_most=1)])\n"
    )
    assert main(["plan", str(path)]) == 4
    err = capsys.readouterr().err
    assert "45" in err  # GPUs wanted: 9 x (1 + 2 + 1 + 1)
    assert "12" in err  # GPUs there: 3 x 4
    assert main(["plan", "cluster-loss", "--fleet", "three-clusters:headroom=-1"]) == 4
    err = capsys.readouterr().err
    assert "they need 30 of its 36 GPUs, not all fit on a node; no place is left: ft-davinci-1 needs 4" in err
    assert "python -m pydoc fleet.spec" not in err  # the drill's mistakes have a next step of their own
    assert main(["forecast", "three-clusters:headroom=-1"]) == 4
    assert "python -m pydoc fleet.spec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scope", "within_s", "said"),
    [
        ("fleet", 10, "29.9 s after it recovered"),  # 299 in a row at 10 rps
        ("affected", 5, "affected gets"),
        ("bystanders", 5, "bystanders gets"),
    ],
)
def test_an_objective_that_no_run_could_certify_is_refused(
    scope: str, within_s: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hasty.py"
    path.write_text(
        "from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets\n"
        "from blackstart import objectives as o\n"
        "drill = Drill(name='hasty', fleet=fleets.micro(), load=OpenLoop(rate_rps=10),\n"
        "    steps=[Baseline(seconds=1), Inject(PowerLoss('cobalt')), Observe(at_most_s=20)],\n"
        f"    objectives=[o.recovered(scope={scope!r}, within_s={within_s}, ratio=0.99)])\n"
    )
    assert main(["plan", str(path)]) == 4
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("bystanders", "scope 'bystanders' is empty on this fleet: every model under load has a replica in cobalt"),
        ("class:legacy", "scope 'class:legacy' is empty on this fleet: it has no share of the load"),
    ],
)
def test_an_objective_of_nobody_is_refused(
    scope: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nobody.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from blackstart import Baseline, Drill, Inject, Observe, OpenLoop, PowerLoss, fleets\n"
        "from blackstart import objectives as o\n"
        "one = fleets.micro()\n"
        "models = tuple(replace(m, share={'chat': 0.5, 'curie': 0.0}.get(m.name, m.share)) for m in one.models)\n"
        "drill = Drill(name='nobody', fleet=replace(one, models=models), load=OpenLoop(rate_rps=50),\n"
        "    steps=[Baseline(seconds=1), Inject(PowerLoss('cobalt')), Observe(at_most_s=20)],\n"
        f"    objectives=[o.latency(scope={scope!r}, p95_ms=250)])\n"
    )
    assert main(["plan", str(path)]) == 4
    err = capsys.readouterr().err
    assert f"{path}:8: objective latency[{scope}]: {said}" in err
    assert "Next: " in err


def test_no_run_directory_is_exit_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(tmp_path)]) == 4
    assert "is not a run directory" in capsys.readouterr().err


def test_plan_shows_targets_holds_and_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "cluster-loss"]) == 0
    out = capsys.readouterr().out
    for said in (
        "victim: PowerLoss, clients see: refused",
        "must survive",
        "every model fits",
        "ft-davinci",
        "loaded after: if downloads share",
        "299",
        "29",
    ):
        assert said in out
    assert [line for line in out.splitlines() if line != line.rstrip()] == []


def test_plan_on_another_fleet_says_who_will_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    on_the_other = ["cluster-loss", "--fleet", "three-clusters:headroom=0"]
    assert main(["plan", *on_the_other]) == 4
    out = capsys.readouterr().out
    assert "NOT every model fits" in out
    assert "Expected verdict: fail: recovered[fleet] is impossible without cobalt: ft-davinci" in out
    assert "`blackstart run` would refuse, for 3 reason(s)" in out
    assert main(["run", *on_the_other]) == 4
    err = capsys.readouterr().err
    assert "3 reasons not to start" in err
    assert "ft-davinci cannot run" in err
    assert "run it with --expect-fail" in err
    assert main(["plan", *on_the_other, "--expect-fail"]) == 0
    assert "would refuse" not in capsys.readouterr().out


def test_plan_as_json_has_all_that_the_page_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "cluster-loss", "--fleet", "three-clusters:headroom=0", "--json"]) == 4
    plan = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in plan["clusters"] if c["fault"]] == ["cobalt"]
    assert plan["blast_radius"] == {"clusters": 1, "survivors": 1}
    assert plan["expected"]["verdict"] == "fail"
    assert {refusal["kind"] for refusal in plan["refusals"]} == {"objectives"}
    assert {"telemetry", "run-time", "stop-request"} <= {guard["name"] for guard in plan["guards"]}
    (forecast,) = plan["forecasts"]
    assert [model["model"] for model in forecast["models"] if not model["fits"]] == ["ft-davinci"]
    assert next(model["nodes"] for model in forecast["models"] if model["model"] == "chat-large") == ["amber-n2"]
    assert plan["steps"][0] == {"text": "Baseline for 20 s", "at_most_s": 20}


def test_a_protected_target_is_refused_whoever_confirms_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLACKSTART_PROTECTED", "cob*")
    assert main(["run", "cluster-loss", "--confirm", "cobalt"]) == 4
    err = capsys.readouterr().err
    assert "target 'cobalt' is protected by 'cob*' in $BLACKSTART_PROTECTED" in err


def test_the_example_of_a_fleet_file_suits_the_drill_that_the_readme_names_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "blackstart run cluster-loss --fleet docs/fleet.toml" in (ROOT / "docs" / "fleet.toml").read_text()
    assert main(["plan", "cluster-loss", "--fleet", str(ROOT / "docs" / "fleet.toml")]) == 0
    assert "Expected verdict: pass" in capsys.readouterr().out


def test_plan_shows_what_is_protected_and_expects_nothing_of_what_would_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["plan", "cluster-loss"]) == 0
    out = capsys.readouterr().out
    assert "protected: nothing" in out
    assert "Expected verdict: pass" in out
    monkeypatch.setenv("BLACKSTART_PROTECTED", "cob*,prod")
    assert main(["plan", "cluster-loss"]) == 4
    out = capsys.readouterr().out
    assert "protected: 'cob*' in $BLACKSTART_PROTECTED, 'prod' in $BLACKSTART_PROTECTED" in out
    assert "Expected verdict" not in out
    assert "would refuse" in out


def test_a_slip_in_a_confirmation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "cluster-loss", "--confirm", "cobolt"]) == 4
    assert "--confirm 'cobolt' names no target of this drill; it hits 'cobalt'" in capsys.readouterr().err


def test_forecast_says_which_cluster_can_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "three-clusters", "--pairs"]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 clusters can go" in out
    assert "0 of 3 pairs can go" in out
    assert "amber + cobalt" in out
    assert main(["forecast", "three-clusters:headroom=0", "--json", "--pairs"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(loss["victim"], loss["affordable"]) for loss in found["losses"]] == [
        ("amber", "no"),
        ("cobalt", "no"),
        ("jade", "no"),
    ]
    assert [pair["affordable"] for pair in found["pairs"]] == ["no"] * 3
    assert "pairs" not in (main(["forecast", "micro", "--json"]), capsys.readouterr().out)[1]


def test_forecast_of_a_file_and_of_a_file_with_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    assert main(["forecast", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 of 2 clusters can go" in out
    assert "without big: large: 1 replica of 1 lost finds no node: each needs 4 GPU(s) on one node" in out
    path.write_text(FLEET.replace("share = 0.5", "share = 0.6"))
    assert main(["forecast", str(path)]) == 4
    assert "shares of the models sum to 1.2" in capsys.readouterr().err


@pytest.mark.parametrize("fleet", ["nothing", "three-clusters:head=1", "three-clusters:headroom=x", "absent.toml"])
def test_a_wrong_fleet_is_exit_4(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "cluster-loss", "--fleet", fleet]) == 4
    assert "Error: " in capsys.readouterr().err


def test_a_foreign_package_with_a_rooms_name_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "blackstart", "list"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert "'reports' resolves to" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_no_room_but_the_command_line() -> None:
    code = (
        "import sys, blackstart\n"
        "from drills.engine.commands import main\n"
        "main(['--help'])\n"
        "assert 'numpy' not in sys.modules, 'numpy'\n"
        "assert 'bokeh' not in sys.modules, 'bokeh'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_drill_file_that_exits_is_never_a_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "exits.py"
    path.write_text("import sys\nsys.exit(0)\n")
    assert main(["run", str(path)]) == 4
    assert "exits.py:2: SystemExit: 0" in capsys.readouterr().err


def test_a_fleet_files_mistakes_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text("name = 5\nzebras = 1\n")
    assert main(["plan", "cluster-loss", "--fleet", str(path)]) == 4
    err = capsys.readouterr().err
    assert err.count("'zebras'") == 1
    assert err.count("name is 5") == 1
