"""The report in a real browser, offline: every chart drawn, a quiet console, no sideways scrolling."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from hpo.report.page import write_report
from storage.history.records import StudyHistory
from tests.report.histories import searched, study, trial, two_directions
from tests.support.browser import DESK, PHONE, Tab

pytestmark = pytest.mark.browser

Scheme = Literal["light", "dark"]
SECONDS = 120_000  # milliseconds playwright waits for the last chart, and for what is expected
expect.set_options(timeout=SECONDS)

STUDIES = {
    "full": [searched(60, unfinished=2)],
    "comparison": [searched(30, name="random", learns=False), searched(30, name="tpe", seed=1)],
    "two directions": [two_directions()],
    "hostile": [
        study(
            *(trial(n, n / 10, params={"<img src=x onerror=alert(1)>": "<b>"}) for n in range(10)),
            name="<script>alert(1)</script>",
        )
    ],
    "empty": [study()],
}


def opened(browser: Browser, path: Path, size: tuple[int, int] = DESK, scheme: Scheme = "light") -> Tab:
    """A report in a tab without network, once every chart is drawn."""
    tab = Tab(browser, size, color_scheme=scheme, offline=True)
    tab.page.goto(path.as_uri())
    tab.page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=SECONDS)
    return tab


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("full", DESK, "light"), *((name, PHONE, "dark") for name in STUDIES)],
)
def test_report_opens_offline_without_a_complaint(
    name: str, size: tuple[int, int], scheme: Scheme, browser: Browser, tmp_path: Path
) -> None:
    """Every chart drawn, nothing from elsewhere, no sideways scrolling, no tick on another, no text cut."""
    histories: list[StudyHistory] = STUDIES[name]
    tab = opened(browser, write_report(histories, tmp_path / "report.html"), size, scheme)
    assert tab.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in tab.requests)
    drawn = "[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))"
    assert tab.page.evaluate(drawn)
    assert tab.width() <= size[0]
    assert tab.overlapping_ticks() == []
    assert tab.texts_outside() == []


def test_a_chart_without_room_stays_quiet(browser: Browser, tmp_path: Path) -> None:
    """Squeezed to nothing, as while a page is laid out, no label ends at a place that is no number."""
    tab = opened(browser, write_report([searched(20)], tmp_path / "report.html"))
    tab.page.evaluate("Plotly.relayout('history', { width: 10, autosize: false })")
    assert tab.complaints == []


def test_charts_follow_the_system_from_light_to_dark(browser: Browser, tmp_path: Path) -> None:
    tab = opened(browser, write_report([searched(20)], tmp_path / "report.html"))
    canvas = tab.page.locator("#history .main-svg").first
    expect(canvas).to_have_css("background-color", "rgb(255, 255, 255)")
    tab.page.emulate_media(color_scheme="dark")
    expect(canvas).to_have_css("background-color", "rgb(23, 28, 35)")
    assert tab.complaints == []


OUTSIDE = """() => [...document.querySelectorAll('.main-svg, .data')].filter(shown => {
  const box = shown.getBoundingClientRect();
  const room = (shown.closest('.chart') ?? document.body).getBoundingClientRect();
  const beside = box.left < room.left - 1 || box.right > room.right + 1;
  return box.width < 100 || beside || box.bottom > room.bottom + 1;
}).length"""
PAPER = {"A5": 480, "A4": 717, "Letter": 739, "A4 across": 1046}  # pixels between the margins


@pytest.mark.parametrize(
    ("size", "scheme"),
    [((1600, 1000), "light"), (PHONE, "dark")],
    ids=["wide-light", "phone-dark"],
)
def test_on_paper_every_chart_and_table_is_whole(
    size: tuple[int, int], scheme: Scheme, browser: Browser, tmp_path: Path
) -> None:
    """Drawn for another width, in the dark, scrolled sideways on a phone: on paper all of it fits, on white.

    A browser that prints lays the page out anew, and the charts do not hear of another window.
    """
    tab = opened(
        browser, write_report([searched(20, evaluated=False)], tmp_path / "report.html"), size, scheme
    )
    page = tab.page
    widths = "[...document.querySelectorAll('.main-svg')].map(svg => svg.getBoundingClientRect().width)"
    before = page.evaluate(widths)
    page.emulate_media(media="print")
    for told in (False, True):  # whether the page learns that it is printed
        if told:
            page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
            expect(page.locator("#history .main-svg").first).to_have_css(
                "background-color", "rgb(255, 255, 255)"
            )
        for paper, width in PAPER.items():
            page.evaluate(f"document.body.style.width = '{width}px'")
            assert page.evaluate(OUTSIDE) == 0, (paper, told)
            assert tab.texts_outside() == [], (paper, told)
    page.evaluate("document.body.style.width = ''")
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(widths) == before
    if scheme == "light":
        page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert page.evaluate(widths) == before
    assert tab.complaints == []


def test_a_click_on_a_column_sorts_the_trials(browser: Browser, tmp_path: Path) -> None:
    history = study(trial(0, 0.5), trial(1, 0.9), trial(2, None, "failed"), trial(3, 0.7))
    tab = opened(browser, write_report([history], tmp_path / "report.html"))
    head = tab.page.locator("table.sortable thead th", has_text="objective value")
    numbers = tab.page.locator("table.sortable tbody th")
    head.click()
    assert [text[0] for text in numbers.all_inner_texts()] == ["0", "3", "1", "2"]
    head.click()
    assert [text[0] for text in numbers.all_inner_texts()] == ["1", "3", "0", "2"]
