"""Drill files: found by name or path, listed without being executed, loaded by path (never imported by name)."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
import sys
import traceback
from dataclasses import dataclass, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import drills
from drills.engine.nouns import Drill
from history.errors import UsageError


@dataclass(frozen=True)
class DrillFile:
    """A drill file as ``list`` shows it. ``summary`` is the first line of its docstring."""

    name: str
    path: Path
    summary: str
    text: str
    remedies: tuple[str, ...] = ()
    """Remediations asked for with the name: ``june-2022+shard+stores``."""


def find_all(cwd: Path) -> dict[str, DrillFile]:
    """By what they are called: drills that come with blackstart, and those in ``./drills``; one of those that is called
    as another is, and is not the same text, goes by its path."""
    own = Path(drills.__file__).parent
    found: dict[str, DrillFile] = {}
    for folder in dict.fromkeys((own, (cwd / "drills").resolve())):
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                file = _describe(path)
                same = found.setdefault(file.name, file).text == file.text
                found |= {} if same else {f"drills/{path.name}": file}
    return found


def find(name: str, cwd: Path) -> DrillFile:
    """The drill called ``name``, or in the file at that path; ``UsageError`` suggests the nearest names.

    ``NAME+REMEDY+…`` is the drill with these remediations on, where it has any; ``NAME+all`` with all of them.
    """
    base, *remedies = name.split("+")
    if remedies:
        return replace(find(base, cwd), remedies=tuple(dict.fromkeys(remedies)))
    if name.endswith(".py") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"no drill file at {name!r}", hint="give a path to a .py file, or a name of `blackstart list`"
            )
        return _describe(path)
    drills_by_name = find_all(cwd)
    wanted = name.replace("_", "-")
    if wanted in drills_by_name:
        called = [str(file.path) for file in drills_by_name.values() if file.name == wanted]
        if len(called) > 1:
            raise UsageError(
                f"{len(called)} drills are called {wanted}: {' and '.join(called)}",
                hint="give the path of the one that you mean",
            )
        return drills_by_name[wanted]
    near = difflib.get_close_matches(wanted, drills_by_name, n=3, cutoff=0.4)
    nearest = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(drills_by_name))}"
    raise UsageError(f"no drill is called {name!r}", hint=f"{nearest} (`blackstart list` shows all)")


def load(file: DrillFile) -> Drill:
    """Executes the file and returns its ``drill``; ``UsageError`` names file and line of what went wrong."""
    module_name = f"blackstart_drill_{file.path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file.path, loader=_Source(module_name, str(file.path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(
            f"{file.path}:{error.lineno}: {error.msg}", hint="the file is not valid Python; mend that line"
        ) from error
    except (Exception, SystemExit) as error:  # a file that calls sys.exit must not end the run as a pass
        takes = _takes(error, module) if isinstance(error, TypeError) else ""
        raise UsageError(
            f"{file.path}:{_line_of(error, file.path)}: {type(error).__name__}: {error}",
            hint=takes or "the drill file raised this while it was read; compare with a drill of `blackstart list`",
        ) from error
    finally:
        sys.modules.pop(module_name, None)
    drill = getattr(module, "drill", None)
    if not isinstance(drill, Drill):
        raise UsageError(
            f"{file.path}: it defines no `drill`",
            hint="a drill file ends with `drill = Drill(...)`; see `blackstart plan --help`",
        )
    return drill if not file.remedies else _with(file, drill)


class _Source(SourceFileLoader):
    """Compiles anew each time and writes nothing beside the user's file."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _takes(error: TypeError, module: ModuleType) -> str:
    """What the noun that was called with wrong arguments takes, and the nearest to the one that it does not."""
    said = re.match(r"(\w+)(?:\.__init__)?\(\)(?: got an unexpected keyword argument '(\w+)')?", str(error))
    names = [vars(module), *(vars(one) for one in vars(module).values() if isinstance(one, ModuleType))]
    noun = next((space[said[1]] for space in names if said[1] in space), None) if said else None
    if said is None or not callable(noun):
        return ""
    takes = [name for name in inspect.signature(noun).parameters if name != "where"]
    near = difflib.get_close_matches(said[2] or "", takes, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"{said[1]} takes {', '.join(takes) or 'nothing'}"


def _with(file: DrillFile, drill: Drill) -> Drill:
    """The drill with the remediations that were asked for."""
    if drill.ablation is None:
        raise UsageError(
            f"{file.name} has no remediations to switch on ({'+'.join(file.remedies)})", hint=f"run {file.name}"
        )
    names = frozenset(file.remedies)
    if names == {"all"}:
        names = drill.ablation.all
    if wrong := drill.ablation.problem(names):
        raise UsageError(f"{file.name}: {wrong}", hint=f"for example {file.name}+{drill.ablation.remedies[0][0]}")
    return drill.ablation.make(names)


def _describe(path: Path) -> DrillFile:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        doc = ast.get_docstring(ast.parse(text)) or ""
    except SyntaxError as error:
        doc = f"(not valid Python: line {error.lineno}: {error.msg})"
    return DrillFile(path.stem.replace("_", "-"), path, doc.partition("\n")[0], text)


def _line_of(error: BaseException, path: Path) -> int | str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
    return (frames[-1].lineno if frames else None) or "?"
