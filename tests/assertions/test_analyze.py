"""The whole: deterministic bytes, a schema that fits, words for people, imports that point one way."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import assertions
from assertions import analyze, encode_result, result_schema
from history.reader import History, Run, columns

if TYPE_CHECKING:
    from tests.assertions.conftest import Objective, Script

ROOM = Path(assertions.__file__).parent


def test_the_same_run_gives_the_same_bytes(script: Script, objective: Objective) -> None:
    made = replace(script.fail(0.0, 4.0, ("solo",)), objectives=(objective("recovered"),))
    data = encode_result(analyze(made.run()))
    assert data == encode_result(analyze(made.run()))
    assert data.endswith(b"}\n")
    assert assertions.decode_result(data) == analyze(made.run())


def test_the_schema_names_every_field(script: Script) -> None:
    schema = msgspec.json.decode(result_schema())
    fields = msgspec.json.decode(encode_result(analyze(script.run())))
    assert set(schema["$defs"]["Result"]["properties"]) == set(fields)
    recovery = schema["$defs"]["ModelRecovery"]["properties"]
    assert {"service_back_s", "recovered_s", "unaffected", "bounds"} <= set(recovery)
    wanted = {"schema_version", "drill", "run_id", "seed", "environment", "verdict", "reasons", "faults", "windows"}
    assert wanted | {"models", "objectives", "validity", "artefacts"} <= set(fields)


def test_artefacts_are_what_a_run_directory_holds(script: Script) -> None:
    artefacts = analyze(script.run()).artefacts
    assert set(artefacts) == {
        "header.json", "schedule.json.gz", "history.jsonl.gz", "drill.py", "journal.jsonl", "logs",
        "result.json", "report.html", "junit.xml", "summary.md",
    }  # fmt: skip


def test_the_headline_of_a_pass(script: Script, objective: Objective) -> None:
    made = script.fail(0.0, 4.0, ("solo",)).fail(0.0, 2.0, ("pair",), every=2)
    result = analyze(replace(made, objectives=(objective("recovered"),)).run())
    assert result.headline == (
        "cobalt lost power 10.0 s into the load; the fleet served again after 4.0 s and the last model (solo) had "
        "recovered after 4.0 s and stayed so."
    )


def test_windows_of_the_run_and_of_each_scope(script: Script) -> None:
    result = analyze(script.fail(0.0, 4.0, ("solo",)).run())
    found = {(w.name, w.scope): (w.start_s, w.end_s) for w in result.windows}
    assert found["drill", "fleet"] == (-10.0, 40.0)
    assert found["baseline", "fleet"] == (-10.0, 0.0)
    assert found["fault", "fleet"] == (0.0, 30.0)
    assert found["failback", "fleet"] == (30.0, 40.0)
    assert found["outage", "solo"] == (0.0, 4.0)
    assert found["hold", "solo"] == (4.0, 7.0)
    assert ("outage", "calm") not in found


def test_ratios_come_from_the_drill(script: Script, objective: Objective) -> None:
    specs = (objective("recovered", scope="each model", ratio=0.95), objective("recovered", ratio=0.98))
    result = analyze(replace(script, objectives=specs).run())
    assert result.fleet is not None
    assert (result.fleet.ratio, result.models["solo"].ratio, result.classes["ft"].ratio) == (0.98, 0.95, 0.90)
    plain = analyze(script.run())
    assert plain.fleet is not None
    assert (plain.fleet.ratio, plain.models["solo"].ratio) == (0.99, 0.90)


def test_an_empty_history_is_unknown_and_raises_nothing(script: Script, objective: Objective) -> None:
    run = script.run()
    specs = tuple(
        objective(indicator, scope=scope)
        for indicator in ("recovered", "warm", "lost", "latency", "no_dip", "reallocated", "cache_hit_ratio")
        for scope in ("fleet", "each model", "served by:jade")
    )
    result = analyze(Run(replace(run.header, objectives=specs), run.schedule, columns([])))
    assert result.verdict == "unknown"
    assert all(o.verdict == "unknown" for o in result.objectives)
    only_events = analyze(Run(run.header, run.schedule, History(columns([]).requests, run.history.events)))
    assert (only_events.verdict, only_events.validity.no_record) == ("unknown", 6_000)


def test_assertions_import_history_only() -> None:
    ours = {"drills", "fleet", "loadgen", "reports", "blackstart"}
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & ours, file
