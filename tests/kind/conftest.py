"""The fleet of real Kubernetes clusters that the tests here share; they run only under ``make test-kind``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from tests.kind.kind_console import Console
else:
    from kind_console import Console


@pytest.fixture(scope="session")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """No fleet is up when it begins, and none when it ends."""
    if not os.environ.get("BLACKSTART_TEST_KIND"):
        pytest.skip("needs Docker and images: make test-kind")
    console = Console(tmp_path_factory.mktemp("kind"))
    yield console
    done = console.run("fleet", "down", "--env", "kind")
    assert done.returncode == 0, done.stderr
    assert console.on_the_engine() == console.before, "no container, volume or network is left"
