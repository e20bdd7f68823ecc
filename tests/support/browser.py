"""Where Chromium is, how to start it so that it stays quiet and offline, and a tab that keeps complaints."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # most tests need no browser, and every test imports this
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

CHROMIUM_ARGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The path of Chromium: `$CHROMIUM` where it names something that runs, else the PATH; None if none."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


DESK, PHONE = (1280, 900), (390, 844)
OVERLAPPING_TICKS = """() => [...document.querySelectorAll('.plot')].flatMap(plot =>
  ['xtick', 'ytick'].flatMap(kind => {
    const boxes = [...plot.querySelectorAll(`.${kind} text`)].map(text => text.getBoundingClientRect());
    const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
      && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    return boxes.some((a, i) => boxes.slice(i + 1).some(b => touch(a, b))) ? [plot.id + ' ' + kind] : [];
  }))"""


TEXTS_OUTSIDE = """() => [...document.querySelectorAll('.plot')].flatMap(plot => {
  const room = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('.main-svg text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width > 0 && (box.left < room.left - 1 || box.right > room.right + 1
      || box.top < room.top - 1 || box.bottom > room.bottom + 1);
  }).map(text => `${plot.id}: ${text.textContent}`);
})"""


class Tab:
    """A tab of a context of its own; keeps what its console, its errors and its dialogs said."""

    def __init__(self, browser: Browser, size: tuple[int, int] = DESK, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        self.context.set_default_timeout(120_000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.agrees = False  # to dialogs, instead of complaining
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._answer)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def width(self) -> int:
        """Of the document in pixels: more than the window's, and it scrolls sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def hindrances(self) -> list[str]:
        """What axe finds on the page, all that folds opened: the rule, and the first place that breaks it."""
        from axe_playwright_python.base import AXE_SCRIPT

        self.page.evaluate("document.querySelectorAll('details').forEach(it => { it.open = !it.name })")
        self.page.evaluate(AXE_SCRIPT)
        found = self.page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        return [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found]

    def overlapping_ticks(self) -> list[str]:
        """Axes of charts whose tick labels touch each other."""
        return list(self.page.evaluate(OVERLAPPING_TICKS))

    def texts_outside(self) -> list[str]:
        """Texts of charts that reach out of their picture, which cuts them off."""
        return list(self.page.evaluate(TEXTS_OUTSIDE))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _answer(self, dialog: Dialog) -> None:
        if self.agrees:
            dialog.accept()
        else:
            self.complaints.append(f"dialog {dialog.message}")
            dialog.dismiss()
