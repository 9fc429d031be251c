"""``Measure``: what a checker of an objective found, before it is held against the limit; ``Unknown``: why not.

And ``checked``: answers to yes-no questions about a run. Whatever raises is unknown, never a pass (DESIGN 3.8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from assertions.result import Check, Interval, Verdict

Answer = tuple[bool, str] | None
"""(yes, what was seen); None: the question does not arise in this run."""


class Unknown(Exception):
    """There is nothing to judge by; the message says what is missing, ``text`` does so in a word or two."""

    text = ""

    def __init__(self, evidence: str, text: str = "") -> None:
        super().__init__(evidence)
        self.text = text or self.text


@dataclass(frozen=True)
class Measure:
    """What a checker found. ``verdict`` None: judged by ``bounds`` against the limit; no bounds are unknown."""

    bounds: Interval | None
    evidence: str
    text: str = ""
    verdict: Verdict | None = None


def checked(questions: Iterable[tuple[str, Callable[[], Answer]]]) -> tuple[Check, ...]:
    """A check for each question that arises; a no makes the run unknown."""
    made = []
    for name, ask in questions:
        try:
            answer = ask()
        except Exception as error:
            answer = False, f"{type(error).__name__}: {error}"
        if answer is not None:
            made.append(Check(name, "pass" if answer[0] else "unknown", answer[1]))
    return tuple(made)
