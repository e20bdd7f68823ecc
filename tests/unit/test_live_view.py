"""The live view on a terminal: nothing else's lines are drawn over, none of its own stay behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from hpo.cli.terminal import Terminal
from hpo.cli.view import LiveView
from hpo.worker.events import Started
from storage.database.engine import Database
from storage.database.migrate import open_database
from storage.database.records import Lease
from tests.support.screen import Screen
from tests.support.shared import make_study
from tests.support.waiting import wait_until

View = Callable[[], AbstractContextManager[tuple[LiveView, Screen]]]
LINK = "dashboard at http://127.0.0.1:40000/studies/a-study-with-a-name?code=" + "c" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path / 'hpo.db'}")
    spec = {"directions": ["maximize"], "sampler": {"name": "random"}}
    make_study(opened, 40, name="digits", spec=spec)
    yield opened
    opened.close()


@pytest.fixture
def view(database: Database, monkeypatch: pytest.MonkeyPatch) -> View:
    """`with view() as (view, screen)`: a view on a terminal of 60 columns and 12 lines."""
    monkeypatch.setenv("TERM", "xterm")

    @contextmanager
    def make() -> Iterator[tuple[LiveView, Screen]]:
        screen = Screen(60, 12)
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        for descriptor in kept:
            os.dup2(screen.slave, descriptor)
        try:
            with LiveView(database, "digits", Terminal()) as made:
                yield made, screen
            os.write(2, b"the end\n")
            wait_until(lambda: screen.lines[-1:] == ["the end"], what="the end")
        finally:
            for descriptor, before in kept.items():
                os.dup2(before, descriptor)
                os.close(before)

    return make


def started(trial: int) -> Started:
    return Started("digits", Lease(trial, 1), trial, 1, None)


def scribble(text: str) -> None:
    """What a runner does whose objective prints while it is imported."""
    subprocess.run(["sh", "-c", f"echo '{text}' >&2"], check=True)


def drawn(lines: list[str]) -> tuple[str, str] | None:
    """The bar and the headline of a view; None while it is being drawn."""
    bars, heads = ([line for line in lines if sign in line] for sign in ("━", "runner"))
    return (bars[0], heads[0]) if (len(bars), len(heads)) == (1, 1) else None


def test_the_bar_has_a_line_of_its_own(view: View) -> None:
    with view() as (shown, screen):
        shown.on_event(0, started(7))
        bar, head = wait_until(lambda: drawn(screen.lines), what="the view is drawn")
    assert set(bar) <= set("━╸╺")
    assert head.split() == ["runner", "trial", "epoch", "value", "seconds"]


def test_what_others_write_stays_above_the_view_which_leaves_nothing_behind(view: View) -> None:
    """A runner's prints, a progress bar, a link that is longer than the window; no headline piles up."""
    with view() as (shown, screen):
        shown.on_event(0, started(7))
        for number in range(20):
            scribble(f"line {number}")
        scribble("loading 1 %\\rloading 99 %\\rloading 100 %")
        os.write(1, f"{LINK}\n".encode())
        wait_until(lambda: any("runner" in line for line in screen.lines), what="the view is drawn")
        wait_until(lambda: LINK in "".join(screen.lines), what="the link stands above")
        wait_until(lambda: sum("trials" in line for line in screen.lines) == 1, what="one headline")
    lines = screen.lines
    assert "trials" not in "".join(lines)
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(20)]
    assert LINK in "".join(lines)
    assert [line for line in lines if "loading" in line] == ["loading 100 %"]


@pytest.mark.parametrize(("rows", "counted"), [(12, "and 9 more running"), (5, "16 running")])
def test_a_view_that_does_not_fit_leaves_nothing_in_the_scrollback(
    view: View, rows: int, counted: str
) -> None:
    """Sixteen runners in a small window, whose size is asked for again at each drawing."""
    with view() as (shown, screen):
        screen.resize(60, rows)
        for runner in range(16):
            shown.on_event(runner, started(runner))
        wait_until(lambda: counted in screen.lines, what="the rest is counted")
        assert len(screen.lines) < rows
        scribble("still here")
    assert screen.lines == ["still here", "the end"]
