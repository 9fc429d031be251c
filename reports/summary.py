"""The Markdown summary for a CI step (below 64 KB) and GitHub annotations, one a failed objective.

Called by ``write_all`` and the command line. Never judges; every text of others is escaped, so that it stays text.
"""

import re
import shlex

from assertions.result import ObjectiveResult, Result
from history.reader import Run
from reports.forms import template
from reports.words import measure, one_line

MAX_BYTES = 64_000
MAX_OBJECTIVES = 60
MAX_MODELS = 60
MAX_CHARS = 240

_SPECIAL = re.compile(r"[\\`*_{}\[\]#|~^$@]|:(?=//|[\w+-]+:)|www\.(?=\w)")
"""What could become markup anywhere in a line: also emoji words, mentions, and addresses that GitHub turns to links."""
_START = re.compile(r"^(?:[-+=]|\d+(?=[.)]))")
"""What could become a list or a heading at the start of a line."""


def _escaped(text: str, limit: int) -> str:
    """Text of others for one line or one cell of a table."""
    safe = one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(_entity, safe)


def _entity(found: re.Match[str]) -> str:
    """A backslash where Markdown takes one, else the character's number, which no parser takes for markup."""
    first, rest = found[0][0], found[0][1:]
    return f"\\{first}{rest}" if first in "\\*_{}[]#" else f"&#{ord(first)};{rest}"


def render(run: Run, result: Result) -> bytes:
    """The summary in UTF-8; tables are cut (and say so) rather than the file growing past the limit."""
    objectives, models, chars = MAX_OBJECTIVES, MAX_MODELS, MAX_CHARS
    while True:
        data = (_text(run, result, objectives, models, chars) + "\n").encode()
        if len(data) < MAX_BYTES:
            return data
        objectives, models, chars = max(objectives // 2, 1), max(models // 2, 1), max(chars * 2 // 3, 40)


def _text(run: Run, result: Result, objectives: int, models: int, chars: int) -> str:
    return template("summary.md.j2").render(
        header=run.header,
        result=result,
        objectives=objectives,
        models=models,
        command=shlex.join(run.header.command_line),
        cell=lambda text: _escaped(text, chars),
        long=lambda text: _START.sub(_entity, _escaped(text, 4 * chars), count=1),
    )


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
