"""summary.md: small, complete at the top, inert; annotations escaped by GitHub's rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

from markdown_it import MarkdownIt
from markdown_it.token import Token

from reports import summary


def tokens(data: bytes) -> list[Token]:
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(data.decode())
    return list(_flat(parsed))


def _flat(nested: list[Token]) -> Iterator[Token]:
    for token in nested:
        yield token
        yield from _flat(token.children or [])


def rows(found: list[Token]) -> list[int]:
    """Cells of each table row."""
    counts: list[int] = []
    for token in found:
        if token.type == "tr_open":
            counts.append(0)
        elif token.type in ("td_open", "th_open"):
            counts[-1] += 1
    return counts


def test_verdict_objectives_models_and_command(sample: ModuleType) -> None:
    made = sample.build()
    text = summary.render(made.run, made.result).decode()
    assert text.startswith("## ✓ PASS · cluster-loss\n")
    assert made.result.fleet is not None
    assert f"lost {made.result.totals.lost:,} of {made.result.fleet.sent:,}" in text
    assert "blackstart run cluster-loss --seed 41" in text
    assert text.count("budget spent") == 1
    found = tokens(text.encode())
    objectives, models = len(made.result.objectives), len(made.result.models)
    assert rows(found) == [5] * (objectives + 1) + [7] * (models + 1)
    assert "| unaffected | unaffected |" in text


def test_a_failed_objective_stands_first(sample: ModuleType) -> None:
    text = summary.render(sample.build("fail").run, sample.build("fail").result).decode()
    table = text.split("### Objectives")[1].splitlines()
    assert table[4].startswith("| ✗ fail |")
    assert "- curie did not recover" in text


def test_it_stays_below_64_kb_and_says_what_it_left_out(sample: ModuleType) -> None:
    many = sample.many_fine_tunes(1500)
    long = "wide | text\n" * 400
    objectives = tuple(replace(o, text=long, evidence=long) for o in many.result.objectives)
    result = replace(many.result, objectives=objectives, reasons=(long,) * 300)
    data = summary.render(many.run, result)
    assert len(data) < 64_000
    text = data.decode()
    assert "more objectives left out here" in text
    assert "more models left out here" in text
    assert "more reasons in the report" in text


def test_hostile_text_is_inert(sample: ModuleType) -> None:
    evil = sample.hostile()
    found = tokens(summary.render(evil.run, evil.result))
    kinds = {token.type for token in found}
    assert not {"html_inline", "html_block", "link_open", "image", "code_inline"} & kinds
    assert set(rows(found)) == {5, 7}
    assert sum(token.type == "fence" for token in found) == 1
    assert "<script>alert(1)</script>" in " ".join(token.content for token in found if token.type == "text")


def test_annotations_are_one_line_each_and_escaped(sample: ModuleType) -> None:
    evil = sample.hostile()
    lines = summary.annotations(evil.result)
    assert len(lines) == len(evil.result.objectives)
    for line in lines:
        assert "\n" not in line
        assert "\r" not in line
        head, _, message = line.removeprefix("::error title=").partition("::")
        assert line.startswith("::error title=")
        assert ":" not in head
        assert "," not in head
        assert "%250A" in message  # a literal %0A of the input stays literal
        assert "%0A" in message.replace("%250A", "")


def test_annotation_of_a_plain_failure(sample: ModuleType) -> None:
    lines = summary.annotations(sample.build("fail").result)
    assert any(
        line.startswith(
            "::error title=cluster-loss%3A recovered [model%3Acurie] failed::> 40.0 s against a limit of 10 s."
        )
        and line.endswith("Playbook: docs/playbooks/headroom.md")
        for line in lines
    )
    assert summary.annotations(sample.build().result) == ()
