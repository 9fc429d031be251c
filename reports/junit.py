"""JUnit: suite = drill, case = objective, for CI systems that read nothing else.

A failed objective is a ``<failure>``, an unknown one an ``<error>``: no data is never a pass. Called by ``write_all``.
Pure: no clock, no host name, so the same result gives the same bytes.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from assertions.result import Check, ObjectiveResult, Result
from reports.words import GLYPHS, count, measure, span

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold even when escaped (section 2.2, production Char)."""


def render(result: Result) -> bytes:
    """The JUnit file of a run in UTF-8."""
    cases = [_case(result, objective) for objective in result.objectives]
    invalid = _validity_case(result)
    if invalid is not None:
        cases.append(invalid)
    failures = sum(case.find("failure") is not None for case in cases)
    errors = sum(case.find("error") is not None for case in cases)
    totals = {"tests": str(len(cases)), "failures": str(failures), "errors": str(errors)}
    root = ET.Element("testsuites", {"name": "blackstart", **totals, "time": _time(result)})
    suite = ET.SubElement(
        root, "testsuite", {"name": _clean(result.drill), **totals, "skipped": "0", "time": _time(result)}
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("run_id", result.run_id),
        ("environment", result.environment),
        ("seed", str(result.seed)),
        ("verdict", result.verdict),
    ):
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    suite.extend(cases)
    out = ET.SubElement(suite, "system-out")
    out.text = _clean("\n".join([result.headline, *result.reasons]))
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _case(result: Result, objective: ObjectiveResult) -> ET.Element:
    case = ET.Element(
        "testcase",
        {
            "classname": _clean(f"blackstart.{result.drill}"),
            "name": _clean(f"{objective.name}[{objective.scope}]"),
            "time": f"{max(objective.measured, 0.0):.3f}" if objective.unit == "s" and objective.measured else "0.000",
        },
    )
    if objective.verdict == "pass":
        return case
    tag, kind = ("failure", "objective-failed") if objective.verdict == "fail" else ("error", "objective-unknown")
    limit = measure(objective.limit, objective.unit)
    mark = ET.SubElement(case, tag, {"type": kind, "message": _clean(f"{objective.text} against a limit of {limit}")})
    lines = [objective.evidence, f"window: {objective.window}", f"measured: {span(objective.bounds, objective.unit)}"]
    if objective.playbook:
        lines.append(f"playbook: {objective.playbook}")
    mark.text = _clean("\n".join(line for line in lines if line))
    return case


def _validity_case(result: Result) -> ET.Element | None:
    """An extra case for a run that is unknown although no objective says so, or whose checks did not pass."""
    bad = [check for check in result.validity.checks if check.verdict != "pass"]
    told = result.verdict != "unknown" or any(o.verdict == "unknown" for o in result.objectives)
    if not bad and told:
        return None
    case = ET.Element(
        "testcase", {"classname": _clean(f"blackstart.{result.drill}"), "name": "validity", "time": "0.000"}
    )
    message = "; ".join(result.reasons) or f"{count(len(bad), 'check')} did not pass"
    mark = ET.SubElement(case, "error", {"type": "run-invalid", "message": _clean(message)})
    mark.text = _clean("\n".join(_check_line(check) for check in bad) or message)
    return case


def _check_line(check: Check) -> str:
    return f"{GLYPHS[check.verdict]} {check.verdict}: {check.name}: {check.detail}"


def _time(result: Result) -> str:
    ends = [window.end_s - window.start_s for window in result.windows if window.name == "drill"]
    return f"{max(ends, default=0.0):.3f}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
