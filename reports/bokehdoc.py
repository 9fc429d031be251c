"""Bokeh without chance: figures -> the same JSON for the same data, and Bokeh's own script to put inline.

Bokeh numbers its models from a counter of the process; here every id is renamed in order of appearance, so two
renderings agree byte for byte and nothing global is touched. Called by html.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from bokeh import __version__ as bokeh_version
from bokeh.document import Document
from bokeh.models import Model
from bokeh.resources import Resources


@cache
def script() -> str:
    """Bokeh's browser library (core component only), quiet but for warnings."""
    parts = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
    text = "\n".join(parts)
    if "</script" in text.lower():
        raise ValueError(f"the script of bokeh {bokeh_version} holds '</script' and cannot be put inline")
    return text


def document_json(figures: Mapping[str, Model]) -> str:
    """``{"doc": …, "roots": {root id: element id}}`` for ``Bokeh.embed.embed_items``; element ids are the keys.

    Characters that could end a script element are written as JSON escapes, so the text is inert inside one.
    """
    document = Document(title="blackstart")
    for figure in figures.values():
        document.add_root(figure)
    try:
        renamed = _Renamer()
        content = renamed(document.to_json(deferred=False))
        roots = {renamed.name(str(figure.id)): key for key, figure in figures.items()}
    finally:
        document.clear()
    text = json.dumps({"doc": content, "roots": roots}, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Renamer:
    """Renames every model id, in order of first appearance; all else is kept."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, old: str) -> str:
        return self._names.setdefault(old, f"b{len(self._names)}")

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self.name(v) if key == "id" and isinstance(v, str) else self(v) for key, v in value.items()}
        if isinstance(value, list | tuple):
            return [self(v) for v in value]
        return value
