"""JUnit: suite = drill, case = objective, for CI systems that read nothing else.

A failed objective is a ``<failure>``, an unknown one an ``<error>``: no data is never a pass. Called by ``write_all``.
Pure: no clock, no host name, so the same result gives the same bytes.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from assertions.result import ObjectiveResult, Result
from reports.words import GLYPHS, count, measure, span

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold even when escaped (section 2.2, production Char)."""


def render(result: Result) -> bytes:
    """The JUnit file of a run in UTF-8."""
    verdicts = [objective.verdict for objective in result.objectives]
    doubts = [check for check in result.validity.checks if check.verdict != "pass"]
    invalid = bool(doubts) or (result.verdict == "unknown" and "unknown" not in verdicts)
    failures, errors = verdicts.count("fail"), verdicts.count("unknown") + invalid
    totals = {"tests": str(len(verdicts) + invalid), "failures": str(failures), "errors": str(errors)}
    took = f"{max((w.end_s - w.start_s for w in result.windows if w.name == 'drill'), default=0.0):.3f}"
    root = ET.Element("testsuites", {"name": "blackstart", **totals, "time": took})
    suite = _add(root, "testsuite", name=result.drill, **totals, skipped="0", time=took)
    properties = _add(suite, "properties")
    for name in ("run_id", "environment", "seed", "verdict"):
        _add(properties, "property", name=name, value=str(getattr(result, name)))
    for objective in result.objectives:
        _case(suite, result.drill, objective)
    if invalid:
        case = _add(suite, "testcase", classname=f"blackstart.{result.drill}", name="validity", time="0.000")
        message = "; ".join(result.reasons) or f"{count(len(doubts), 'check')} did not pass"
        lines = [f"{GLYPHS[check.verdict]} {check.verdict}: {check.name}: {check.detail}" for check in doubts]
        _add(case, "error", "\n".join(lines) or message, type="run-invalid", message=message)
    _add(suite, "system-out", "\n".join([result.headline, *result.reasons]))
    ET.indent(root)
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _case(suite: ET.Element, drill: str, objective: ObjectiveResult) -> None:
    took_s = max(objective.measured or 0.0, 0.0) if objective.unit == "s" else 0.0
    name = f"{objective.name}[{objective.scope}]"
    case = _add(suite, "testcase", classname=f"blackstart.{drill}", name=name, time=f"{took_s:.3f}")
    if objective.verdict == "pass":
        return
    tag, kind = ("failure", "objective-failed") if objective.verdict == "fail" else ("error", "objective-unknown")
    message = f"{objective.text} against a limit of {measure(objective.limit, objective.unit)}"
    lines = [objective.evidence, f"window: {objective.window}", f"measured: {span(objective.bounds, objective.unit)}"]
    if objective.playbook:
        lines.append(f"playbook: {objective.playbook}")
    _add(case, tag, "\n".join(line for line in lines if line), type=kind, message=message)


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    made = ET.SubElement(parent, tag, {name: _clean(value) for name, value in attributes.items()})
    made.text = None if text is None else _clean(text)
    return made


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
