"""The report's file: whole or not at all, small, self-contained, and everything from users escaped."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import plotly.offline
import pytest

from hpo.errors import HpoError, UserError
from hpo.report.markdown import markdown, write_markdown
from hpo.report.page import render, write_report
from hpo.report.pictures import write_pngs
from tests.report.histories import searched, study, trial, two_directions

EVIL = "<script>alert('x')</script>\"&"


def test_1000_trials_of_8_parameters_and_20_epochs_stay_under_8_mb(tmp_path: Path) -> None:
    written = write_report([searched(1000, prune=False)], tmp_path / "report.html")
    extra = written.stat().st_size - len(plotly.offline.get_plotlyjs().encode())
    assert extra < 8_000_000


def test_10000_trials_stay_small_too(tmp_path: Path) -> None:
    written = write_report([searched(10_000)], tmp_path / "report.html")
    extra = written.stat().st_size - len(plotly.offline.get_plotlyjs().encode())
    assert extra < 8_000_000


def test_the_page_fetches_nothing() -> None:
    page = render([searched(20)]).replace(plotly.offline.get_plotlyjs(), "")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_everything_from_users_is_escaped() -> None:
    history = study(
        trial(0, 0.5, params={EVIL: EVIL}, runner=EVIL, metrics={EVIL: {1: 0.5}}, reports={1: 0.5}),
        trial(1, None, "failed", error=EVIL),
        name=EVIL,
        spec={"study": EVIL, "sampler": {"name": EVIL}},
        winner_evaluation={
            "metrics": {EVIL: 1.0},
            "classes": [EVIL, "b"],
            "confusion_matrix": [[1, 0], [0, 1]],
            "per_class": [{"class": EVIL, "precision": 1.0}],
            "roc": [{"class": EVIL, "fpr": [0, 1], "tpr": [0, 1]}],
        },
    )
    for histories in ([history], [history, history]):
        page = render(histories)
        assert "<script>alert" not in page
        assert page.count("</script>") == 3 + plotly.offline.get_plotlyjs().count("</script>")


@pytest.mark.parametrize(
    "histories",
    [
        [study()],
        [study(trial(0, None, "failed"))],
        [two_directions()],
        [searched(10), study(name="empty")],
        [searched(10), searched(10, minimize=True)],
        [two_directions(), two_directions()],
    ],
)
def test_every_kind_of_study_can_be_reported(histories: list[object], tmp_path: Path) -> None:
    assert write_report(histories, tmp_path / "r.html").stat().st_size > 1_000_000  # type: ignore[arg-type]
    assert write_markdown(histories, tmp_path / "r.md").read_text()  # type: ignore[arg-type]


def test_studies_of_different_directions_are_not_drawn_together() -> None:
    page = render([searched(10), searched(10, minimize=True)])
    assert "different directions" in page
    assert 'id="compare-trials"' not in page


def test_the_comparison_shows_trials_seconds_and_every_best() -> None:
    page = render([searched(10, name="one"), searched(10, name="two", seed=1)])
    for part in ('id="compare-trials"', 'id="compare-seconds"', 'id="bests"', 'id="study-1"', 'id="study-2"'):
        assert part in page


def test_nothing_to_report_is_a_sentence(tmp_path: Path) -> None:
    for write in (write_report, write_markdown, write_pngs):
        with pytest.raises(UserError, match="at least one study"):
            write([], tmp_path / "x")


def test_a_directory_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        write_report([study()], tmp_path)


def test_missing_directories_are_made(tmp_path: Path) -> None:
    assert write_report([study()], tmp_path / "a" / "b" / "report.html").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_met_as_the_system_reports_it() -> None:
    """The error the other tests raise by hand is the one a real full device gives."""
    with (
        pytest.raises(OSError, match="No space left") as caught,
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        file.write(b"x")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_report_and_no_half_one(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old report")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", full) if step == "fsync" else (Path, "replace", full)))
    with pytest.raises(HpoError, match=r"No space left on device.*unchanged"):
        write_report([study()], path)
    assert path.read_text() == "the old report"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_markdown_shows_users_text_literally() -> None:
    text = markdown([study(trial(0, 0.5, params={"a|b": "<i>"}), name="*x*\n# y")])
    assert r"\*x\* # y" in text
    assert "\n# y" not in text
    assert r"| a\|b | \<i\> |" in text


def test_pictures_without_a_browser_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="none was found: install it"):
        write_pngs([searched(10)], tmp_path)


def test_pictures_are_png_files_named_after_their_charts(chromium: str, tmp_path: Path) -> None:
    history = study(*(trial(n, n / 10) for n in range(10)))
    written = write_pngs([history], tmp_path / "pictures", theme="dark")
    assert {path.name for path in written} == {"history.png", "edf.png", "best-seconds.png", "timeline.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
