"""Where Chromium is, and how to start it so that it stays quiet and offline."""

from __future__ import annotations

import os
import shutil

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
