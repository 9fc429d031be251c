"""junit.xml: the shape that CI systems parse; fail -> failure, unknown -> error, invalid -> a validity case."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from types import ModuleType

import pytest

from reports import junit


def check_shape(root: ET.Element) -> None:
    """The usual JUnit shape (Jenkins' schema): attributes, counts, order of children."""
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "time"} <= set(suite.attrib)
        order = [child.tag for child in suite]
        assert order == sorted(order, key=["properties", "testcase", "system-out", "system-err"].index)
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases)
        assert int(suite.attrib["failures"]) == sum(case.find("failure") is not None for case in cases)
        assert int(suite.attrib["errors"]) == sum(case.find("error") is not None for case in cases)
        for case in cases:
            assert case.attrib["name"]
            assert case.attrib["classname"]
            assert float(case.attrib["time"]) >= 0
            assert len(case) <= 1
            for mark in case:
                assert mark.tag in ("failure", "error")
                assert mark.attrib["message"]
                assert mark.attrib["type"]


@pytest.mark.parametrize("outcome", ["pass", "fail", "unknown"])
def test_shape(sample: ModuleType, outcome: str) -> None:
    made = sample.build(outcome)
    root = ET.fromstring(junit.render(made.result))
    check_shape(root)
    suite = root[0]
    assert suite.attrib["name"] == "cluster-loss"
    verdicts = [objective.verdict for objective in made.result.objectives]
    assert int(suite.attrib["failures"]) == verdicts.count("fail")
    assert int(suite.attrib["errors"]) == verdicts.count("unknown") + (outcome == "unknown")


def test_cases_are_named_by_objective_and_scope(sample: ModuleType) -> None:
    root = ET.fromstring(junit.render(sample.build("fail").result))
    case = next(c for c in root.iter("testcase") if c.attrib["name"] == "recovered[model:curie]")
    failure = case.find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "> 40.0 s against a limit of 10 s"
    assert "playbook: docs/playbooks/headroom.md" in (failure.text or "")


def test_an_invalid_run_has_a_validity_case(sample: ModuleType) -> None:
    root = ET.fromstring(junit.render(sample.build("unknown").result))
    case = next(c for c in root.iter("testcase") if c.attrib["name"] == "validity")
    error = case.find("error")
    assert error is not None
    assert "nothing dropped" in (error.text or "")
    names = [c.attrib["name"] for c in ET.fromstring(junit.render(sample.build().result)).iter("testcase")]
    assert "validity" not in names


def test_an_unknown_verdict_without_any_unknown_objective_is_still_an_error(sample: ModuleType) -> None:
    made = sample.build()
    result = replace(made.result, verdict="unknown", reasons=("interrupted",), objectives=())
    root = ET.fromstring(junit.render(result))
    check_shape(root)
    assert root.attrib["errors"] == "1"


def test_hostile_text_survives_as_text(sample: ModuleType) -> None:
    evil = sample.hostile()
    data = junit.render(evil.result)
    root = ET.fromstring(data)
    check_shape(root)
    assert {element.tag for element in root.iter()} <= {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure", "error", "system-out",
    }  # fmt: skip
    assert "<script>alert(1)</script>" in root[0].attrib["name"]
    assert b"\x00" not in data
