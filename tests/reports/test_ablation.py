"""The ablation page: every cell in both clocks, safe text, readable without script."""

from __future__ import annotations

from html.parser import HTMLParser

from assertions.ablation import Ablation, Cell, Variant
from reports.ablation import entry, finding, render

NONE = Variant(
    "none", (), "none/1", "pass", True, {"codex": Cell((11.5, 12.0)), "ft": Cell((140.0, 144.0), True, True)}
)
ONE = Variant("only shard", ("shard",), "x/1", "pass", True, {"codex": Cell((11.0, 12.0)), "ft": Cell((7.0, 7.2))})
NEVER = Variant("only <b>", ("<b>",), "y/1", "fail", False, {"codex": Cell(None), "ft": Cell((150.0, None))})
ALL = Variant("all", ("shard", "<b>"), "z/1", "pass", True, {"codex": Cell((0.5, 1.0)), "ft": Cell(None)})
FOUND = Ablation(
    "june", 1, 300.0, (("shard", "6: sharding"), ("<b>", "1: <locks>")), ("codex", "ft"), (NONE, ONE, NEVER, ALL)
)


def test_a_cell_says_both_clocks_and_how_many_times_sooner() -> None:
    cell = entry(FOUND, NONE, ONE, "ft")
    assert cell.text == "36 min 00 s"
    assert cell.exact == "7.00–7.20 s"
    assert cell.gain == "19.4× sooner"
    assert entry(FOUND, NONE, ONE, "codex").gain == "no sooner"
    base = entry(FOUND, NONE, NONE, "ft")
    assert base.text == "12 h 00 min"
    assert "relapsed" in base.exact
    assert "with the cluster" in base.exact
    assert base.gain == ""
    assert entry(FOUND, NONE, NEVER, "codex").text == "no outage"
    assert entry(FOUND, NONE, NEVER, "ft").text == "> 12 h 30 min"


def test_the_sentence_needs_both_ends_of_the_comparison() -> None:
    assert "ft 12 h 00 min → no outage" in finding(FOUND)
    unfinished = Ablation("june", 1, 300.0, (), ("ft",), (NONE,))
    assert "not both finished" in finding(unfinished)
    assert b"not both finished" in render(unfinished)


def test_the_page_is_whole_safe_and_the_same_each_time() -> None:
    data = render(FOUND)
    assert data == render(FOUND)
    text = data.decode()
    assert "<script" not in text
    assert "<locks>" not in text
    assert "&lt;locks&gt;" in text
    assert text.count("<tr>") == 5
    assert "1 s of a run stands for 300 s" in text
    assert "a check of this run did not pass" in text

    class Marks(HTMLParser):
        seen: dict[str, int]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen[tag] = self.seen.get(tag, 0) + 1

    parser = Marks()
    parser.seen = {}
    parser.feed(text)
    assert parser.seen["svg"] == 3, "the chart and a key a class"
    assert text.count("no outage") >= 3


def test_an_ablation_without_any_finished_run_is_still_a_page() -> None:
    assert b"0 runs" in render(Ablation("june", 1, 1.0, (), (), ()))
