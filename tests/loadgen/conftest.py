"""Helpers of the load tests. ``scripted`` is loaded by path, once: tests are no packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if "scripted" not in sys.modules:
    spec = importlib.util.spec_from_file_location("scripted", Path(__file__).with_name("scripted.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scripted"] = module
    spec.loader.exec_module(module)
