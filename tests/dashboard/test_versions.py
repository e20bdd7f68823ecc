"""A picture bears the number of the history it was drawn from; who has an old one is told to ask again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from hpo.dashboard import board as boards
from hpo.dashboard import charts
from hpo.dashboard.board import Board
from hpo.dashboard.live import LiveStudy
from hpo.report.chart import Chart
from hpo.settings import Settings
from hpo.studies.creation import create
from hpo.studies.reading import get_study
from storage.database.engine import Database
from tests.dashboard.seeded import make_spec
from tests.support.shared import Party
from tests.support.waiting import wait_until


@pytest.fixture
def worker(database: Database, sqlite_url: str) -> Iterator[Party]:
    """One of the study "digits"."""
    found = Party(sqlite_url, get_study(database, "digits"))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _each_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "REST", 0)


def drawn(board: Board) -> tuple[int, int]:
    """The chart of all values: its number, and of how many trials it is."""
    found = charts.draw_study(board, "digits", "edf", charts.Options())
    return found["version"], sum(len(trace["x"]) for trace in found["figure"]["data"])


def test_what_was_read_before_a_change_does_not_bear_its_number(
    board: Board, worker: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial ends, and another page reads it, after a chart has read the history and before it is drawn."""
    _, before = drawn(board)
    whole = LiveStudy.chosen

    def change(live: LiveStudy, where: str, **kept: object) -> object:
        found = whole(live, where, **kept)  # type: ignore[arg-type]
        worker.finish_one(0.95)
        live.refresh()
        return found

    worker.finish_one(0.93)
    with monkeypatch.context() as patch:
        patch.setattr(LiveStudy, "chosen", change)
        version, shown = drawn(board)
    assert shown > before
    after = drawn(board)
    assert after[0] > version
    assert after[1] > shown


class Queue:
    """A lock that knows how many have asked for it."""

    def __init__(self) -> None:
        self.lock, self.asked = threading.Lock(), 0

    def __enter__(self) -> None:
        self.asked += 1
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


@pytest.mark.parametrize("fails", [False, True])
def test_those_who_ask_at_once_share_one_look_that_began_after_they_asked(
    board: Board, worker: Party, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Not the one under way, which may have missed the change that they ask for; nor one that failed."""
    live = board.live("digits")
    known = len(live.refresh().trials)
    read, queue = live._read, Queue()
    looks, go_on = [], threading.Event()

    def slow(connection: object) -> object:
        looks.append(len(looks))
        assert len(looks) > 1 or go_on.wait(60)
        if fails and len(looks) == 2:
            raise ConnectionError
        return read(connection)  # type: ignore[arg-type]

    monkeypatch.setattr(live, "_read", slow)
    monkeypatch.setattr(live, "_lock", queue)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(live.numbered)
        wait_until(lambda: looks, what="a look is under way")
        others = [pool.submit(live.numbered) for _ in range(5)]
        wait_until(lambda: queue.asked == 6, what="all have asked")
        worker.finish_one(0.95)
        go_on.set()
    first.result()
    told = [other.result() for other in others if not other.exception()]
    assert len(told) == 5 - fails
    assert len(looks) == 2 + fails
    assert {len(history.trials) for history, _ in told} == {known + 1}


def test_charts_that_are_asked_for_at_once_are_drawn_one_after_another(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a page has the first of them soon; beside each other all would be there when the last is."""
    beside, met, whole = threading.Barrier(2), [], Chart.picture

    def draw(chart: Chart, *given: object) -> object:
        with suppress(threading.BrokenBarrierError):
            beside.wait(0.5)
            met.append(chart.name)
        return whole(chart, *given)  # type: ignore[arg-type]

    names = ["slice-1", "importances", "parallel", "history-1"]
    for name in names:  # then what they show is known, and is drawn at once
        charts.draw_study(board, "digits", name, charts.Options())
    with ThreadPoolExecutor(4) as pool:
        monkeypatch.setattr(Chart, "picture", draw)
        asked = [pool.submit(charts.draw_study, board, "digits", n, charts.Options(log="1")) for n in names]
    assert all(found.result()["figure"] for found in asked)
    assert met == []


def test_a_study_that_is_read_anew_is_not_shown_as_it_was(
    board: Board, worker: Party, database: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many others were looked at meanwhile as are kept in memory."""
    monkeypatch.setattr(boards, "MAX_STUDIES", 1)
    board.history("digits")
    before = drawn(board)
    create(database, make_spec("other"), Settings(storage=sqlite_url, artifacts="memory://x"))
    board.history("other")
    worker.finish_one(0.95)
    board.history("digits")
    after = drawn(board)
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_who_asks_too_early_is_told_to_ask_again_however_little_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing, to a page, is never: it would show the old picture until the study changes once more."""
    monkeypatch.setattr(charts, "REST", 4)
    now = 100.0
    monkeypatch.setattr("hpo.dashboard.charts.time.monotonic", lambda: now)
    kept = charts._Cache()

    def draw() -> dict[str, object]:
        nonlocal now
        now += 1.0
        return {}

    kept.get("chart", 1, draw)
    for left in (3.0, 0.5, 0.004, 1e-9):
        now = 105.0 - left
        found = kept.get("chart", 2, draw)
        assert found["version"] == 1
        assert left <= found["again"] < left + 1
        assert found["again"] >= 0.01, left


def test_what_was_drawn_slowly_does_not_take_the_place_of_what_is_newer() -> None:
    kept = charts._Cache()

    def slowly() -> dict[str, object]:
        kept.get("chart", 2, lambda: {"shows": "the newer"})
        return {"shows": "the older"}

    assert kept.get("chart", 1, slowly)["shows"] == "the older"
    assert kept.get("chart", 2, dict)["shows"] == "the newer"
