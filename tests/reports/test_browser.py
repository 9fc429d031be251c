"""The page in real headless Chromium: no console error under its own policy, charts drawn, readable without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from reports import html

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

CONTRASTS = """() => {
  const channel = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const parse = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const under = el => {
    for (let e = el; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor);
  };
  const worst = [];
  for (const el of document.querySelectorAll("body *")) {
    const own = [...el.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !el.getClientRects().length || el.closest("script, style, .canvas")) continue;
    const style = getComputedStyle(el), svg = el instanceof SVGElement;
    let back = under(el);
    if (el.classList.contains("stagetext")) {
      back = parse(getComputedStyle(el.ownerSVGElement.querySelector(".stage.a")).fill);
    }
    const front = parse(svg ? style.fill : style.color);
    const a = light(front), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) worst.push([Math.round(ratio * 100) / 100, el.tagName, el.className.baseVal ?? el.className]);
  }
  return worst;
}"""


@dataclass
class Opened:
    """A page that was opened, and everything that it complained of."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield chromium
        chromium.close()


def open_page(browser: Any, path: Path, data: bytes, *, charts: bool = True, **options: Any) -> Opened:
    path.write_bytes(data)
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    opened = Opened(context.new_page())
    page = opened.page
    page.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto(path.as_uri())
    if charts:
        page.wait_for_selector("html[data-charts]", timeout=30_000)
    return opened


def canvases(page: Any) -> dict[str, int]:
    """Painted pixels of each chart: canvases live in open shadow roots, through which locators look."""
    found = {}
    for element in page.query_selector_all(".canvas"):
        painted = 0
        for canvas in element.query_selector_all("canvas"):
            painted += canvas.evaluate(
                "c => c.width && c.height ? c.getContext('2d').getImageData(0, 0, c.width, c.height)"
                ".data.reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0) : 0"
            )
        found[element.get_attribute("id")] = painted
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_and_nothing_complains(browser: Any, sample: ModuleType, tmp_path: Path, scheme: str) -> None:
    made = sample.build("fail")
    data = html.render(made.run, made.result, made.drill_text)
    opened = open_page(browser, tmp_path / "report.html", data, color_scheme=scheme)
    opened.page.wait_for_function("document.documentElement.dataset.charts")
    painted = canvases(opened.page)
    assert set(painted) == {
        "chart-lane", "chart-latency", "chart-outcomes", "chart-shares", "chart-bytes", "chart-hits", "chart-gpus",
    }  # fmt: skip
    assert all(pixels > 2_000 for pixels in painted.values()), painted
    assert opened.page.get_attribute("html", "data-charts") == scheme
    assert opened.complaints == []
    assert opened.requests == [(tmp_path / "report.html").as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(browser: Any, sample: ModuleType, tmp_path: Path, scheme: str) -> None:
    made = sample.build("fail")
    data = html.render(made.run, made.result, made.drill_text).replace(b"<details>", b"<details open>")
    opened = open_page(browser, tmp_path / "report.html", data, color_scheme=scheme)
    assert opened.page.evaluate(CONTRASTS) == []


def test_charts_follow_a_change_of_the_scheme(browser: Any, sample: ModuleType, tmp_path: Path) -> None:
    made = sample.build()
    opened = open_page(browser, tmp_path / "r.html", html.render(made.run, made.result, ""), color_scheme="light")
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_selector("html[data-charts=dark]", timeout=30_000)
    assert all(pixels > 2_000 for pixels in canvases(opened.page).values())
    assert opened.complaints == []


def test_the_top_is_there_without_javascript(browser: Any, sample: ModuleType, tmp_path: Path) -> None:
    made = sample.build()
    data = html.render(made.run, made.result, made.drill_text)
    opened = open_page(browser, tmp_path / "report.html", data, charts=False, java_script_enabled=False)
    page = opened.page
    assert page.inner_text("h1") == "✓ PASS"
    assert "recovered in" in page.inner_text(".verdict")
    assert page.locator(".strip .wide svg:visible").count() == len(made.result.models) + 1
    assert page.locator(".objectives tbody tr").count() == len(made.result.objectives)
    assert page.locator("noscript").is_visible()
    first = page.locator(".verdict").bounding_box()
    assert first["y"] + first["height"] < 300


@pytest.mark.parametrize("width", [380, 640, 800, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, sample: ModuleType, tmp_path: Path, width: int) -> None:
    made = sample.many_fine_tunes(60)
    data = html.render(made.run, made.result, made.drill_text)
    opened = open_page(browser, tmp_path / "report.html", data, viewport={"width": width, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = opened.page.evaluate(
        "w => [...document.querySelectorAll('.strip text')].filter(t => t.getClientRects().length && "
        "(t.getBoundingClientRect().right > w || t.getBoundingClientRect().left < 0)).map(t => t.textContent)",
        width,
    )
    assert outside == []


@pytest.mark.parametrize("width", [380, 1280, 1920])
def test_in_a_table_too_wide_names_stay_whole_and_stay_in_view(
    browser: Any, sample: ModuleType, tmp_path: Path, width: int
) -> None:
    made = sample.build()
    talkative = [replace(row, reason="no node has room " * 9) for row in made.result.forecast]
    data = html.render(made.run, replace(made.result, forecast=tuple(talkative)), made.drill_text)
    opened = open_page(browser, tmp_path / "report.html", data, viewport={"width": width, "height": 800})
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    phases = page.get_by_role("region", name="Phases by model")
    assert phases.evaluate("one => one.scrollWidth > one.clientWidth")
    lines = "one => one.clientHeight / parseFloat(getComputedStyle(one).lineHeight)"
    names = phases.locator("td:first-child .text").all()
    assert {round(name.evaluate(lines)) for name in names} == {1}
    beyond = "one => one.getBoundingClientRect().right > one.parentNode.getBoundingClientRect().right"
    texts = f"all => all.filter({beyond}).map(one => one.textContent)"
    assert page.locator("td .text").evaluate_all(texts) == []
    phases.evaluate("one => one.scrollLeft = one.scrollWidth")
    assert names[0].bounding_box()["x"] >= phases.bounding_box()["x"]


def test_a_wholly_hostile_run_runs_nowhere(browser: Any, sample: ModuleType, tmp_path: Path) -> None:
    evil = sample.poisoned()
    opened = open_page(browser, tmp_path / "report.html", html.render(evil.run, evil.result, evil.drill_text))
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for chart in page.locator("[id^=chart-]").all():
        chart.scroll_into_view_if_needed()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert "<script>alert(1)" in page.locator("body").inner_text()
    assert opened.complaints == []
    assert opened.requests == [(tmp_path / "report.html").as_uri()]


def test_hostile_text_runs_nowhere(browser: Any, sample: ModuleType, tmp_path: Path) -> None:
    evil = sample.hostile()
    data = html.render(evil.run, evil.result, evil.drill_text)
    opened = open_page(browser, tmp_path / "report.html", data)
    page = opened.page
    latency = page.locator("#chart-latency")
    latency.scroll_into_view_if_needed()
    box = latency.bounding_box()
    tooltip = ""
    for step in range(40):  # over the bad dots, until one tells its hostile words
        page.mouse.move(box["x"] + box["width"] * (0.56 + 0.002 * step), box["y"] + box["height"] * 0.7875)
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shown = page.locator(".bk-tooltip-content")
        if shown.count():
            tooltip = shown.first.inner_text()
            break
    assert "<script>alert(1)" in tooltip
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert opened.complaints == []
    assert opened.requests == [(tmp_path / "report.html").as_uri()]
