"""Loads sample.py by path (tests are no package) and offers its builders."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SAMPLE = Path(__file__).with_name("sample.py")


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module tests/reports/sample.py."""
    name = "blackstart_reports_sample"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
