"""Offers the builders of sample.py."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.reports import sample as builders


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module tests/reports/sample.py."""
    return builders
