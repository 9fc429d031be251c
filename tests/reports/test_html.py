"""report.html: the same bytes for the same history, small for any length, inert for hostile text, true figures."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from history.rundir import RunDirectory, write_atomic
from reports import bokehdoc, charts, html, write_all

_SCRIPT = """
import hashlib
from reports import html, junit, summary
from tests.reports import sample
s = sample.build("fail")
for data in (html.render(s.run, s.result, s.drill_text), junit.render(s.result), summary.render(s.run, s.result)):
    print(hashlib.sha256(data).hexdigest())
"""


class _Text(HTMLParser):
    """Text and tags outside script and style."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._skip = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text.append(data)


def parse(page: bytes) -> tuple[list[tuple[str, dict[str, str | None]]], str]:
    parser = _Text()
    parser.feed(page.decode())
    return parser.tags, re.sub(r"\s+", " ", " ".join(parser.text))


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    root = Path(__file__).parents[2]

    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "BOKEH_SIMPLE_IDS": "no" if seed == "2" else "yes"}
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        return done.stdout

    first = run("1")
    assert len(first.split()) == 3
    assert first == run("2")


def test_another_history_gives_other_bytes(sample: ModuleType) -> None:
    one, two = sample.build(seed=41), sample.build(seed=42)
    assert html.render(one.run, one.result, "") != html.render(two.run, two.result, "")


def test_the_page_stays_small_with_300_000_ops(sample: ModuleType) -> None:
    big = sample.build(rate_rps=1500, seconds=200)
    assert len(big.run.load) == 300_000
    page = html.render(big.run, big.result, big.drill_text)
    assert len(page) <= html.MAX_BYTES
    _, text = parse(page)
    drawn = re.search(r"Dots: ([\d,]+) of 300,000 sends", text)
    assert drawn is not None
    assert 2_000 <= int(drawn[1].replace(",", "")) <= 8_000


def test_what_does_not_fit_is_left_out_and_said(sample: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sample.build()
    whole = len(html.render(made.run, made.result, made.drill_text))
    monkeypatch.setattr(html, "MAX_BYTES", whole - 1)
    small = html.render(made.run, made.result, made.drill_text)
    assert len(small) <= whole - 1
    assert "the drill's text is in drill.py" in parse(small)[1]
    assert "chart-latency" in small.decode()
    monkeypatch.setattr(html, "MAX_BYTES", 500_000)
    bare = html.render(made.run, made.result, made.drill_text)
    assert len(bare) <= 500_000
    assert "With charts this page would be larger than 0.5 MB" in parse(bare)[1]
    assert b"<canvas" not in bare
    assert "Requests a second by outcome" in parse(bare)[1]


def test_the_canary_stands_in_the_details(sample: ModuleType) -> None:
    made = sample.build()
    model = replace(made.result.models["davinci"], canary_failed=9, canary_back_s=(2.1, 2.35))
    result = replace(made.result, models=made.result.models | {"davinci": model})
    text = parse(html.render(made.run, result, ""))[1]
    assert "New connections, as the canary saw them" in text
    assert "2.10–2.35 s" in text


def test_the_forecast_is_of_those_that_went_and_says_nothing_of_who_stayed(sample: ModuleType) -> None:
    made = sample.build()
    alone = made.run.header.forecast
    both = replace(alone, victim="cobalt and jade", clusters=("cobalt", "jade"), gpus_needed=31)
    rows = (replace(made.result.forecast[0], model="stayed", fits_actual=None, reload_s_forecast=None),)
    result = replace(made.result, forecast=rows)

    def text(*forecasts: object) -> str:
        run = replace(made.run, header=replace(made.run.header, forecast=both, forecasts=forecasts))
        return parse(html.render(run, result, ""))[1]

    assert "If cobalt goes, its replicas need 20 GPUs" in text(both, alone)
    assert "If cobalt and jade go, their replicas need 31 GPUs" in text()
    assert re.search(r"stayed ✓ fits – ", text())
    assert "? not seen" not in text()


def test_the_page_stays_small_with_hundreds_of_models_and_a_long_drill(sample: ModuleType) -> None:
    many = sample.many_fine_tunes(1200)
    page = html.render(many.run, many.result, "x = '<&>'\n" * 100_000)
    assert len(page) <= html.MAX_BYTES
    _, text = parse(page)
    assert "1,202 models: one strip a class" in text
    assert "more characters are in drill.py" in text


def test_hostile_text_is_inert(sample: ModuleType) -> None:
    evil = sample.hostile()
    page = html.render(evil.run, evil.result, evil.drill_text)
    tags, text = parse(page)
    assert [attrs for tag, attrs in tags if tag == "img"] == []
    assert sum(tag == "script" for tag, _ in tags) == 3
    assert all(not name.startswith("on") for _, attrs in tags for name in attrs)
    assert "<script>alert(1)</script>" in text  # shown as text
    assert b"\x00" not in page
    assert "\u202e" not in text


def test_hostile_text_is_inert_wherever_it_stands(sample: ModuleType) -> None:
    evil = sample.poisoned()
    page = html.render(evil.run, evil.result, evil.drill_text)
    tags, text = parse(page)
    clean = sample.build("fail", rate_rps=40, seconds=40)
    harmless, _ = parse(html.render(clean.run, clean.result, clean.drill_text))
    assert {tag for tag, _ in tags} == {tag for tag, _ in harmless}
    assert sum(tag == "script" for tag, _ in tags) == 3
    assert all(not name.startswith("on") for _, attrs in tags for name in attrs)
    loaded = [value for _, attrs in tags for name, value in attrs.items() if name in ("href", "src", "style")]
    assert not [value for value in loaded if value and "alert" in value]
    shown = text.count("<script>alert(1)</script>")
    assert shown > 60, shown  # as text: names, reasons, addresses, versions, errors …
    assert b"\x00" not in page
    assert "\u202e" not in text


def test_chart_data_cannot_end_its_script_element(sample: ModuleType) -> None:
    evil = sample.hostile()
    page = html.render(evil.run, evil.result, "").decode()
    data = page.split('<script type="application/json" id="charts">')[1].split("</script>")[0]
    assert not set("<>&") & set(data)
    assert "alert(1)" in json.dumps(json.loads(data)["doc"])


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_chart_colours_have_contrast_on_both_backgrounds() -> None:
    style = (Path(html.__file__).parent / "templates" / "report.css").read_text()
    light, dark = re.findall(r"--bg:(#[0-9a-f]+);", style)[:2]
    light = "#ffffff" if light == "#fff" else light
    nothing: dict[str, str] = {}
    for back, other in ((light, nothing), (dark, charts.DARK)):
        for words in (charts.TEXT, charts.MUTED):
            assert _contrast(other.get(words, words), back) >= 4.5
        for shape in (charts.BLUE, charts.RED, charts.TEAL, charts.PURPLE, charts.GREY):
            assert _contrast(other.get(shape, shape), back) >= 3.0
        assert (
            _contrast(other.get(charts.ORANGE, charts.ORANGE), back) >= 2.5
        )  # prescribed; dashes and hatches carry it on white


def test_everything_is_inside_the_one_file(sample: ModuleType) -> None:
    good = sample.build()
    tags, _ = parse(html.render(good.run, good.result, ""))
    assert all(not {"src", "href"} & set(attrs) for tag, attrs in tags)
    policy = next(a["content"] for t, a in tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'")


def test_the_ten_second_line(sample: ModuleType) -> None:
    good = sample.build()
    _, text = parse(html.render(good.run, good.result, ""))
    lost, sent = good.result.totals.lost, good.result.fleet.sent
    high = good.result.fleet.recovered_s[1]
    assert "✓ PASS" in text
    assert f"recovered in {high:.2f} s of 10 s" in text
    assert f"{lost:,} of {sent:,} ({100 * lost / sent:.1f} %)" in text
    assert f"budget spent {100 * lost / 400:.0f} %" in text
    assert good.result.headline in text


def test_a_fail_names_its_reason_and_playbook(sample: ModuleType) -> None:
    bad = sample.build("fail")
    _, text = parse(html.render(bad.run, bad.result, ""))
    assert "✗ FAIL" in text
    assert bad.result.reasons[0] in text
    assert "Playbook: docs/playbooks/headroom.md" in text
    assert "not recovered after 40.0 s, limit 10 s" in text


def test_an_unknown_says_why(sample: ModuleType) -> None:
    unsure = sample.build("unknown")
    _, text = parse(html.render(unsure.run, unsure.result, ""))
    assert "? UNKNOWN" in text
    assert unsure.result.reasons[0] in text


@pytest.mark.parametrize(("prometheus", "said"), [(False, "No Prometheus ran."), (True, "Weights loaded since")])
def test_without_prometheus_a_sentence_stands_instead_of_the_chart(
    sample: ModuleType, prometheus: bool, said: str
) -> None:
    made = sample.build(prometheus=prometheus)
    page = html.render(made.run, made.result, "")
    _, text = parse(page)
    assert said in text
    assert (b'id="chart-gpus"' in page) == prometheus


def test_a_run_in_which_nothing_was_sent_still_has_a_page(sample: ModuleType) -> None:
    empty = sample.build(seconds=0.001, rate_rps=10)
    _, text = parse(html.render(empty.run, empty.result, ""))
    assert "Nothing was sent, so there is nothing to draw." in text


def test_ids_do_not_depend_on_what_bokeh_made_before() -> None:
    from bokeh.plotting import figure

    def one() -> str:
        fig = figure(height=100)
        fig.line([0, 1], [1, 2])
        return bokehdoc.document_json({"here": fig})

    first = one()
    figure(height=10)
    assert one() == first
    assert '"roots":{"b' in first


def test_write_all_writes_three_files_and_hashes_the_history(sample: ModuleType, tmp_path: Path) -> None:
    made = sample.build()
    directory = RunDirectory(tmp_path / "run")
    write_atomic(directory.history, b"the history")
    write_atomic(directory.drill, b"drill = 'of this run'\n")
    paths = write_all(made.run, made.result, directory)
    assert [path.name for path in paths] == ["report.html", "junit.xml", "summary.md"]
    _, text = parse(paths[0].read_bytes())
    assert hashlib.sha256(b"the history").hexdigest() in text
    assert "drill = 'of this run'" in text
    assert not list(directory.path.glob("*.part"))
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_all(made.run, made.result, directory)] == before
