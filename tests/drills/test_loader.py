"""Drill files: found by name, listed without being executed, and loaded with errors that point at a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.engine.safety.loader import find, find_all, load
from history.errors import UsageError


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_own_drills_are_found_by_file_name_with_hyphens(tmp_path: Path) -> None:
    drills = find_all(tmp_path)
    assert drills["cluster-loss"].summary.startswith("Lose one cluster of three")


def test_a_users_drill_of_our_name_is_listed_by_its_path_not_executed_and_never_taken_for_ours(tmp_path: Path) -> None:
    mine = write(tmp_path / "drills", "cluster_loss.py", '"""Mine."""\nraise SystemExit("executed")\n')
    write(tmp_path / "drills", "_helper.py", "")
    drills = find_all(tmp_path)
    assert drills["drills/cluster_loss.py"].summary == "Mine."
    assert drills["cluster-loss"].summary.startswith("Lose one cluster of three")
    assert "-helper" not in drills
    with pytest.raises(UsageError, match="2 drills are called cluster-loss") as caught:
        find("cluster-loss", tmp_path)
    assert str(mine) in caught.value.message
    assert find(str(mine), tmp_path).summary == "Mine."


def test_a_copy_of_our_drill_is_the_same_drill(tmp_path: Path) -> None:
    write(tmp_path / "drills", "cluster_loss.py", find_all(tmp_path)["cluster-loss"].text)
    assert find("cluster-loss", tmp_path).summary.startswith("Lose one cluster of three")


def test_listing_survives_a_file_that_is_no_python(tmp_path: Path) -> None:
    write(tmp_path / "drills", "broken.py", "def (\n")
    assert "not valid Python: line 1" in find_all(tmp_path)["broken"].summary


def test_an_unknown_drill_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find("cluster-los", tmp_path)
    assert caught.value.exit_code == 4
    assert "did you mean cluster-loss" in caught.value.hint


def test_a_missing_path_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no drill file at"):
        find("nowhere/x.py", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef (\n", "bad.py:2: invalid syntax"),
        ("x = 1\n\n1 / 0\n", "bad.py:3: ZeroDivisionError: division by zero"),
        ("from blackstart import Baseline\n\nBaseline(second=1)\n", "bad.py:3: TypeError: "),
        ("import sys\nsys.exit(0)\n", "bad.py:2: SystemExit: 0"),
        ("x = 1\n", "it defines no `drill`"),
        ("drill = 5\n", "it defines no `drill`"),
        ("from blackstart import Nothing\n", "bad.py:1: ImportError: cannot import name 'Nothing'"),
    ],
)
def test_a_drill_file_that_does_not_load_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, "bad.py", text)
    with pytest.raises(UsageError) as caught:
        load(find(str(path), tmp_path))
    assert said in caught.value.message


def test_a_relative_path_has_its_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "bad.py", "x = 1\n\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"bad\.py:3: ZeroDivisionError"):
        load(find("./bad.py", tmp_path))


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("Baseline(second=1)", "did you mean seconds? Baseline takes seconds"),
        ("Baseline()", "Baseline takes seconds"),
        ("Baseline(1, 2, 3, 4)", "Baseline takes seconds"),
        ("o.lost(atmost=1)", "did you mean at_most? lost takes at_most, scope, window, playbook"),
        ("fleets.three_clusters(headrom=1)", "did you mean headroom? three_clusters takes headroom"),
        ("len(5)", "the drill file raised this while it was read"),
    ],
)
def test_a_wrong_argument_is_said_with_those_there_are(call: str, hint: str, tmp_path: Path) -> None:
    path = write(tmp_path, "bad.py", f"from blackstart import Baseline, fleets, objectives as o\n{call}\n")
    with pytest.raises(UsageError, match=r"bad\.py:2: TypeError") as caught:
        load(find(str(path), tmp_path))
    assert caught.value.hint.startswith(hint)


def test_nothing_is_written_beside_the_users_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mine.py", "drill = 5\n")
    for _ in range(2):
        with pytest.raises(UsageError):
            load(find(str(path), tmp_path))
    assert [one.name for one in tmp_path.iterdir()] == ["mine.py"]
