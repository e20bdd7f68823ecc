"""The report in a real browser, offline: every chart drawn, a quiet console, no sideways scrolling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hpo.report.page import write_report
from hpo.search.history import StudyHistory
from tests.report.histories import searched, study, trial, two_directions
from tests.support.browser import CHROMIUM_ARGS, find_chromium

pytestmark = pytest.mark.browser

DESK, PHONE = (1280, 900), (390, 844)
SECONDS = 60_000  # milliseconds playwright waits for the last chart

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium ($CHROMIUM or on the PATH)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGS))
        yield started
        started.close()


class Opened:
    """A report in a tab without network, and whatever the console said."""

    def __init__(
        self, browser: Browser, path: Path, size: tuple[int, int], scheme: Literal["light", "dark"]
    ) -> None:
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn=all]", state="attached", timeout=SECONDS)


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk-light", "phone-dark"]
)
@pytest.mark.parametrize("name", STUDIES)
def test_report_opens_offline_without_a_complaint(
    name: str, size: tuple[int, int], scheme: Literal["light", "dark"], browser: Browser, tmp_path: Path
) -> None:
    histories: list[StudyHistory] = STUDIES[name]
    opened = Opened(browser, write_report(histories, tmp_path / "report.html"), size, scheme)
    assert opened.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)
    page = opened.page
    assert page.evaluate(
        "[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_text_of_axes_does_not_overlap(browser: Browser, tmp_path: Path) -> None:
    """Ticks of one axis never touch each other, on a desk and on a phone."""
    path = write_report([searched(60)], tmp_path / "report.html")
    for size in (DESK, PHONE):
        opened = Opened(browser, path, size, "light")
        overlaps = opened.page.evaluate(
            """() => [...document.querySelectorAll('.plot')].flatMap(plot =>
              ['xtick', 'ytick'].flatMap(kind => {
                const boxes = [...plot.querySelectorAll(`.${kind} text`)].map(t => t.getBoundingClientRect());
                const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                  && a.top < b.bottom - 1 && b.top < a.bottom - 1;
                return boxes.some((a, i) => boxes.slice(i + 1).some(b => touch(a, b)))
                  ? [plot.id + ' ' + kind] : [];
              }))"""
        )
        assert overlaps == [], size


def test_charts_follow_the_system_from_light_to_dark(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, write_report([searched(20)], tmp_path / "report.html"), DESK, "light")
    canvas = opened.page.locator("#history .main-svg").first
    expect(canvas).to_have_css("background-color", "rgb(255, 255, 255)")
    opened.page.emulate_media(color_scheme="dark")
    expect(canvas).to_have_css("background-color", "rgb(23, 28, 35)", timeout=SECONDS)
    assert opened.complaints == []


def test_a_click_on_a_column_sorts_the_trials(browser: Browser, tmp_path: Path) -> None:
    history = study(trial(0, 0.5), trial(1, 0.9), trial(2, None, "failed"), trial(3, 0.7))
    opened = Opened(browser, write_report([history], tmp_path / "report.html"), DESK, "light")
    head = opened.page.locator("table.sortable thead th", has_text="objective value")
    numbers = opened.page.locator("table.sortable tbody th")
    head.click()
    assert [text[0] for text in numbers.all_inner_texts()] == ["0", "3", "1", "2"]
    head.click()
    assert [text[0] for text in numbers.all_inner_texts()] == ["1", "3", "0", "2"]
