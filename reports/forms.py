"""The one Jinja environment: a template is the form of a page, words.py its filters, facts and tables its contents.

Called by html.py, strips.py and summary.py. Everything is escaped, but for Markdown, which summary.py escapes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from reports import facts, tables, words


@cache
def template(name: str) -> Template:
    """A file of templates/."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "block": words.block,
        "interval": words.interval,
        "line": words.one_line,
        "listed": words.listed,
        "measure": words.measure,
        "px": _px,
        "seconds": words.seconds,
        "span": words.span,
    }
    made.globals |= {"count": words.count, "percent": words.percent, "glyphs": words.GLYPHS}
    made.globals |= {"facts": facts, "tables": tables}
    return made


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
