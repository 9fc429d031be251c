"""Drills of tests keep their locks and their ledger in a place of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state directory of everything that these tests start."""
    path = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLACKSTART_STATE", str(path))
        yield path


@pytest.fixture(autouse=True)
def no_lock_is_inherited(state: Path) -> Iterator[None]:
    """A test that leaves a lock behind fails by itself, not the next one."""
    yield
    for lock in (state / "locks").glob("*.json"):
        lock.unlink()
