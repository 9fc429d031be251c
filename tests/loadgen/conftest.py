"""Helpers of the load tests. ``scripted`` and ``load_runs`` are loaded by path, once: tests are no packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _load(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


for _name in ("scripted", "load_runs"):
    if _name not in sys.modules:
        _load(_name)
