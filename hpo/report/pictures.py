"""The report's charts as PNG files, drawn by Chromium through kaleido."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from hpo.errors import HpoError, UserError, first_line
from hpo.files import write_whole
from hpo.report.chart import Picture
from hpo.report.drawing.theme import Theme, themed
from hpo.report.sections import comparison_sections, short_sections, study_sections
from storage.history.records import StudyHistory

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = {"full": 1100, "half": 720, "third": 560}  # CSS pixels; pictures have twice as many
SECONDS = 90  # for one picture


def write_pngs(
    histories: Sequence[StudyHistory], directory: str | PathLike[str], *, theme: Theme = "light"
) -> tuple[Path, ...]:
    """Write one PNG per chart of the report into `directory` and return their paths.

    Files are named after the charts (`history.png`, `slice-1.png`, `compare-seconds.png`).

    Raises UserError where there is no study, no Chromium or no kaleido, HpoError where the browser or the
    disk refuses.
    """
    if not histories:
        raise UserError("Pictures need at least one study; none was given.")
    browser = find_browser()
    if browser is None:
        raise UserError(
            "PNG pictures are drawn by Chromium, and none was found: install it "
            "(Debian: apt install chromium), or name one in $CHROMIUM or $BROWSER_PATH."
        )
    try:
        import kaleido  # only here: everything else of the report does without it
    except ImportError as error:
        raise UserError("PNG pictures need kaleido: pip install 'hpo[png]'.") from error
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise UserError(f"Cannot write pictures into {target}: it is not a directory.")
    pictures = _pictures(histories)
    with tempfile.TemporaryDirectory(prefix="hpo-png-") as aside:
        orders = [
            {
                "fig": themed(picture.figure, theme),
                "path": Path(aside, f"{picture.id}.png"),
                "opts": {
                    "format": "png",
                    "width": WIDTHS[picture.size],
                    "height": picture.figure.layout.height,
                    "scale": 2,
                },
            }
            for picture in pictures
        ]
        try:
            failures = kaleido.write_fig_from_object_sync(
                orders, kopts={"path": browser, "mathjax": False, "timeout": SECONDS}
            )
        except Exception as error:  # kaleido and choreographer have no common base
            raise HpoError(f"{browser} could not draw the pictures: {first_line(error)}") from error
        if failures:
            raise HpoError(f"{browser} could not draw {len(failures)} pictures: {first_line(failures[0])}")
        return tuple(
            write_whole(
                target / f"{picture.id}.png", Path(aside, f"{picture.id}.png").read_bytes(), "picture"
            )
            for picture in pictures
        )


def find_browser() -> str | None:
    """Chromium by $BROWSER_PATH, $CHROMIUM or the PATH, in this order; None where there is none."""
    for variable in ("BROWSER_PATH", "CHROMIUM"):
        if named := os.environ.get(variable):
            return shutil.which(named)
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def _pictures(histories: Sequence[StudyHistory]) -> list[Picture]:
    if len(histories) == 1:
        sections = study_sections(histories[0])
    else:
        parts = [short_sections(history, f"s{index}-") for index, history in enumerate(histories, start=1)]
        sections = (*comparison_sections(histories), *(section for part in parts for section in part))
    return [picture for section in sections for picture in section.pictures]
