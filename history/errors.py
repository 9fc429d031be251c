"""The one exception tree: every error that a user can meet carries its next step.

    BlackstartError            exit 3   anything that blackstart itself got wrong or could not do
    ├─ UsageError              exit 4   the drill, the fleet file or the command line is wrong
    │  └─ Refused              exit 4   all is well-formed, and it would be unsafe or pointless to start
    ├─ FleetError              exit 3   the fleet did not start, or an environment failed underneath
    ├─ FaultError              exit 3   a fault could not be injected, verified or healed
    └─ RecordingError          exit 3   the history could not be written: the run cannot be trusted

Rooms raise these; only the command line prints them. ``hint`` is one sentence that names the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BlackstartError(Exception):
    """Base of every user-facing error: a message that quotes the value and the rule, and a hint."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BlackstartError):
    """The user's input is wrong; ``problems`` lists every mistake found, not only the first."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class Refused(UsageError):
    """A well-formed request that blackstart will not carry out, with the reason."""


class FleetError(BlackstartError):
    """The fleet could not be started, reached or stopped."""


class FaultError(BlackstartError):
    """A fault could not be injected, verified or healed."""


class RecordingError(BlackstartError):
    """An op could not be written (full disk, unwritable directory)."""


def meant(word: str, known: Iterable[str]) -> str:
    """``did you mean X? `` with the known word nearest to a mistyped one; "" when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""
