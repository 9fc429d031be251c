"""The Markdown summary for a CI step (below 64 KB) and GitHub annotations, one a failed objective.

Called by ``write_all`` and the command line. Never judges; every text of others is escaped, so that it stays text.
"""

import re
import shlex

from assertions.result import ModelRecovery, ObjectiveResult, Result
from history.reader import Run
from reports.facts import budget_of, lost_of, recovered_of, worst_first
from reports.words import GLYPHS, count, interval, listed, measure, one_line, seconds

MAX_BYTES = 64_000
MAX_OBJECTIVES = 60
MAX_MODELS = 60
MAX_REASONS = 20
_TEXT = 240

_SPECIAL = re.compile(r"[\\`*_{}\[\]#|~^$@]|:(?=//|[\w+-]+:)|www\.(?=\w)")
"""What could become markup anywhere in a line: also emoji words, mentions, and addresses that GitHub turns to links."""
_START = re.compile(r"^(?:[-+=]|\d+(?=[.)]))")
"""What could become a list or a heading at the start of a line."""


class _Cell:
    """Escapes text of others for one Markdown table cell or one line."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __call__(self, text: str) -> str:
        flat = one_line(text, self._limit)
        safe = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return _SPECIAL.sub(_entity, safe)

    def long(self, text: str) -> str:
        """The same for a line of its own, which may be longer."""
        return _START.sub(_entity, _Cell(self._limit * 4)(text), count=1)


def _entity(found: re.Match[str]) -> str:
    """A backslash where Markdown takes one, else the character's number, which no parser takes for markup."""
    first, rest = found[0][0], found[0][1:]
    return f"\\{first}{rest}" if first in "\\*_{}[]#" else f"&#{ord(first)};{rest}"


def render(run: Run, result: Result) -> bytes:
    """The summary in UTF-8; tables are cut (and say so) rather than the file growing past the limit."""
    objectives, models, text = MAX_OBJECTIVES, MAX_MODELS, _TEXT
    while True:
        data = "\n".join(_lines(run, result, objectives, models, text)).encode() + b"\n"
        if len(data) < MAX_BYTES:
            return data
        objectives, models, text = max(objectives // 2, 1), max(models // 2, 1), max(text * 2 // 3, 40)


def annotations(result: Result) -> tuple[str, ...]:
    """One GitHub workflow command a failed objective: ``::error title=…::…``.

    Escaping as in GitHub's own toolkit (packages/core/src/command.ts): %, CR and LF in messages; also : and , in
    properties.
    """
    return tuple(_annotation(result, o) for o in result.objectives if o.verdict == "fail")


def _annotation(result: Result, objective: ObjectiveResult) -> str:
    title = f"{result.drill}: {objective.name} [{objective.scope}] failed"
    limit = measure(objective.limit, objective.unit)
    message = f"{objective.text} against a limit of {limit}. {objective.evidence}"
    if objective.playbook:
        message += f" Playbook: {objective.playbook}"
    return f"::error title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _lines(run: Run, result: Result, objectives: int, models: int, text: int) -> list[str]:
    cell = _Cell(text)
    first = seconds(result.fleet.first_success_s if result.fleet else None)
    lines = [
        f"## {GLYPHS[result.verdict]} {result.verdict.upper()} · {cell(result.drill)}",
        "",
        f"**{cell(recovered_of(result))}** · first success {first} · lost {lost_of(result)} · {budget_of(result)}",
        "",
        cell.long(result.headline),
        "",
    ]
    if result.verdict != "pass":
        lines += [f"- {cell.long(reason)}" for reason in result.reasons[:MAX_REASONS]]
        if len(result.reasons) > MAX_REASONS:
            lines.append(f"- … and {len(result.reasons) - MAX_REASONS} more reasons in the report")
        lines.append("")
    lines += _objectives(result, objectives, cell) + _models(result, models, cell) + _how(run, result, cell)
    return lines


def _objectives(result: Result, at_most: int, cell: _Cell) -> list[str]:
    order = {"fail": 0, "unknown": 1, "pass": 2}
    rows = sorted(result.objectives, key=lambda o: order[o.verdict])
    lines = [
        "### Objectives",
        "",
        "| verdict | objective | scope | measured | limit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for o in rows[:at_most]:
        limit = measure(o.limit, o.unit)
        verdict = f"{GLYPHS[o.verdict]} {o.verdict}"
        lines.append(f"| {verdict} | {cell(o.name)} | {cell(o.scope)} | {cell(o.text)} | {cell(limit)} |")
    if len(rows) > at_most:
        lines += ["", f"{count(len(rows) - at_most, 'more objective')} left out here (failed ones stand first)."]
    return [*lines, ""]


def _models(result: Result, at_most: int, cell: _Cell) -> list[str]:
    rows = worst_first(result.models)
    lines = [
        "### Models, worst first",
        "",
        "| model | first success | service back | recovered | warm | bad | sent |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, m in rows[:at_most]:
        lines.append(f"| {cell(name)} | {_phases(m)} | {m.bad:,} | {m.sent:,} |")
    if len(rows) > at_most:
        lines += ["", f"{count(len(rows) - at_most, 'more model')} left out here; the report has them."]
    return [*lines, ""]


def _phases(model: ModelRecovery) -> str:
    if model.unaffected:
        return f"{seconds(model.first_success_s)} | unaffected | unaffected | {seconds(model.warm_s)}"
    cells = (interval(model.service_back_s), interval(model.recovered_s))
    return f"{seconds(model.first_success_s)} | {cells[0]} | {cells[1]} | {seconds(model.warm_s)}"


def _how(run: Run, result: Result, cell: _Cell) -> list[str]:
    header = run.header
    command = one_line(shlex.join(header.command_line), 1000)
    clusters = listed(fault.cluster for fault in result.faults if fault.cluster)
    return [
        "### How to read this",
        "",
        "Seconds count from the injection call. An interval holds the truth: the system was back somewhere inside it. "
        "✗ fail: the limit was missed beyond doubt. ? unknown: the data does not decide, which is never a pass. "
        "*Lost* are bad answers while the fault lasted: failed, cut short, or later than "
        f"{header.load.good_within_ms:g} ms after their intended time.",
        "",
        f"Victim {cell(clusters or 'none')} · environment {cell(result.environment)} · seed {result.seed} · "
        f"run {cell(result.run_id)} · commit {cell(header.commit or 'not known')}{' (dirty)' if header.dirty else ''}",
        "",
        "Run it again:",
        "",
        "```",
        command,
        "```",
    ]
