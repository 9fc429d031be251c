"""Data runs one way: imports point drills -> (fleet, loadgen) -> history, assertions -> reports, and never back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("history", "assertions", "reports", "loadgen", "fleet", "drills", "blackstart")
MAY_IMPORT = {
    "history": {"history"},
    "assertions": {"assertions", "history"},
    "reports": {"reports", "assertions", "history"},
    "loadgen": {"loadgen", "history"},
    "fleet": {"fleet", "history"},
    "drills/engine": set(ROOMS) - {"blackstart"},
}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import hides which room it enters"
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"no files in {room}"
    wrong = {
        str(path.relative_to(ROOT)): sorted(ours - MAY_IMPORT[room])
        for path in files
        if (ours := imported(path) & set(ROOMS)) - MAY_IMPORT[room]
    }
    assert wrong == {}


def test_drill_scripts_import_only_the_public_vocabulary() -> None:
    scripts = [path for path in (ROOT / "drills").glob("*.py") if path.name != "__init__.py"]
    assert scripts
    for script in scripts:
        assert imported(script) & set(ROOMS) == {"blackstart"}, script


def test_only_the_load_process_imports_locust() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if "locust" in imported(path)
    }
    assert importers
    assert all(path.startswith("loadgen/") for path in importers)


def test_files_and_functions_stay_small() -> None:
    for room in ROOMS[:-1]:
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 500, f"{path} has more than 500 lines"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert node.end_lineno is not None
                    assert node.end_lineno - node.lineno < 70, f"{path}:{node.lineno} {node.name} is over 70 lines"
