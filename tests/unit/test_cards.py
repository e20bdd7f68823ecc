"""Who may start on a card: as usual, or one runner alone for a trial that ran out of memory beside others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpo.runner.devices import out_of_device_memory
from hpo.worker.cards import Access, Cards
from hpo.worker.devices import Share
from hpo.worker.turns import Assignment
from storage.database.records import StudyRow

TWO_CARDS = [Share("cuda:0", f"cuda:{card}", f"GPU-{card}") for card in (0, 1, 0, 1)]
NO_SPEC: Any = None
BIG, OTHER = (
    Assignment(cast(StudyRow, SimpleNamespace(uid=uid, name=name)), NO_SPEC)
    for uid, name in (("1", "big"), ("2", "other"))
)


def test_as_long_as_nothing_waits_everybody_starts():
    cards = Cards(TWO_CARDS)
    assert {cards.access(runner, {0, 1, 2, 3}) for runner in range(4)} == {Access.START}


def test_one_place_waits_for_the_others_to_leave_and_other_cards_go_on():
    cards = Cards(TWO_CARDS)
    cards.want(2, BIG)
    assert cards.access(2, {0, 2}) is Access.WAIT
    assert cards.access(0, {0, 2}) is Access.LEAVE
    assert cards.access(1, {0, 1, 2, 3}) is Access.START
    assert cards.access(2, {2}) is Access.ALONE
    assert cards.wanted(2) is BIG


def test_nobody_comes_back_while_the_lone_trial_runs_and_all_do_when_none_waits():
    cards = Cards(TWO_CARDS)
    cards.want(0, BIG)
    assert cards.access(0, {0}) is Access.ALONE
    assert cards.access(2, {0}) is Access.LEAVE
    cards.none_waits(0, BIG)
    assert [cards.access(runner, {0}) for runner in (0, 2)] == [Access.START, Access.START]


def test_two_lone_trials_on_one_card_run_one_after_the_other_in_one_place():
    cards = Cards(TWO_CARDS)
    cards.want(0, BIG)
    cards.want(2, OTHER)
    assert cards.access(0, set()) is Access.ALONE
    assert cards.wanted(0) is BIG
    cards.none_waits(0, BIG)
    assert cards.access(2, {0}) is Access.LEAVE
    assert cards.access(0, {0}) is Access.ALONE
    assert cards.wanted(0) is OTHER


def test_when_no_process_lives_one_place_is_chosen_and_not_none():
    """Places that wait for each other would wait for ever."""
    cards = Cards(TWO_CARDS)
    cards.want(0, BIG)
    assert [cards.access(runner, set()) for runner in (2, 0)] == [Access.ALONE, Access.LEAVE]


def test_a_study_left_to_others_holds_no_card():
    cards = Cards(TWO_CARDS)
    cards.want(0, BIG)
    cards.want(1, BIG)
    cards.forget(BIG)
    assert {cards.access(runner, {0, 1, 2, 3}) for runner in range(4)} == {Access.START}


def test_a_card_with_one_runner_is_not_shared():
    cards = Cards(TWO_CARDS[:3])
    assert [cards.is_shared(runner) for runner in range(3)] == [True, False, True]


def _raised(make):
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError


def test_what_counts_as_out_of_the_devices_memory():
    torch = pytest.importorskip("torch")

    def wrapped():
        try:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        except RuntimeError as error:
            raise ValueError("use a smaller batch") from error

    def plain():
        raise RuntimeError("CUDA error: out of memory")

    def host():
        raise MemoryError

    def on_host():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    assert [out_of_device_memory(_raised(one)) for one in (wrapped, plain, host, on_host)] == [
        True, True, False, False,
    ]  # fmt: skip
