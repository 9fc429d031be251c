"""Does every field of a drill hold what its annotation says? One walk over all nouns, for ``Drill.problems``.

A drill file is Python: a number in quotes, a fault outside of an ``Inject`` or a name without its brackets get as far
as here. Checks of values may rest on it. It looks at nothing but types.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from drills.engine.nouns.guards import Guard
from drills.engine.nouns.located import Located, Problem
from drills.engine.nouns.objectives import Objective
from drills.engine.nouns.steps import Step, Until
from fleet.spec import FleetSpec

_NUMBERS: dict[Any, type] = {float: Real, int: Integral}
_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    str: "a text",
    bool: "True or False",
    type(None): "None",
    Step: "a Baseline, an Inject(FAULT), an Observe or a Restore",
    Until: "a predicate such as o.all_recovered()",
    Objective: "an objective such as o.lost(at_most=100)",
    Guard: "a guard such as g.run_time()",
    FleetSpec: "a fleet: fleets.NAME(), or FleetSpec.from_toml(Path(FILE))",
}


def mistyped(noun: Any, owner: Located) -> Iterator[tuple[Located, Problem]]:
    """For every field of ``noun`` and beneath it that holds something else: (the located noun it is in, problem)."""
    owner = noun if isinstance(noun, Located) else owner
    name = getattr(noun, "name", "")
    label = type(noun).__name__.removesuffix("Spec") + (f" {name}" if isinstance(name, str) and name else "")
    hints = _hints(noun.__class__)
    for field in fields(noun) if hints else ():
        for path, value, hint in _parts(field.name, getattr(noun, field.name), hints[field.name]):
            if not _fits(value, hint):
                where = value.where if isinstance(value, Located) else owner.where
                yield owner, Problem(where, f"{label}: {path}={_shown(value)}: must be {_words(hint)}")
            elif is_dataclass(value):
                yield from mistyped(value, owner)


def well_typed(noun: Located) -> bool:
    """Whether nothing in it and beneath it holds something else than it says."""
    return next(mistyped(noun, noun), None) is None


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except Exception:  # a user's own noun whose annotations cannot be read here: it is taken at its word
        return {}


def _parts(path: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, Any]]:
    """A list's members one by one, anything else as it is: where it stands, what it is, what it must be."""
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) in (list, tuple)]
    if not (kinds and isinstance(value, list | tuple)):
        yield path, value, hint
        return
    for number, one in enumerate(value):
        yield f"{path}[{number}]", one, get_args(kinds[0])[0]


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return False
        each = arguments[:1] * len(value) if origin is list or arguments[-1] is ... else arguments
        return len(value) == len(each) and all(map(_fits, value, each))
    if origin is Callable or hint is Any:
        return hint is Any or callable(value)
    return isinstance(value, _NUMBERS.get(hint, origin or hint)) and not (isinstance(value, bool) and hint in _NUMBERS)


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if origin in (list, tuple):
        return f"a list, each {_words(arguments[0])}"
    name = "function" if origin is not None else hint.__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _shown(value: Any) -> str:
    name = getattr(value, "__name__", "") if callable(value) else ""
    return f"{name} (without its brackets)" if name else reprlib.repr(value)
