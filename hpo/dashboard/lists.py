"""What the list of studies shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from hpo.errors import UserError
from hpo.studies.answers import seconds_left
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow, StudyState
from storage.history import lists
from storage.history.lists import STUDY_SORTS, Progress, progress

T = TypeVar("T")


@dataclass(frozen=True)
class StudyCard:
    """One study in the list."""

    progress: Progress
    curve: tuple[tuple[int, float], ...]  # (trial number, best so far) at each improvement
    seconds_left: float | None  # a guess from the pace so far; None: nothing to guess from

    @property
    def row(self) -> StudyRow:
        return self.progress.row


@dataclass(frozen=True)
class StudyPage(Generic[T]):
    """One page of studies."""

    studies: tuple[T, ...]
    total: int  # that match the filter
    page: int  # 1-based
    pages: int
    damaged: tuple[str, ...] = ()  # sentences about those that cannot be read


def list_studies(
    database: Database,
    of: Callable[[Transaction, str], T],
    *,
    text: str = "",
    state: str | None = None,
    sort: str = "-created",
    page: int = 1,
    size: int = 20,
) -> StudyPage[T]:
    """What `of` tells of the studies whose name contains `text`, in `state`.

    `sort` is one of `STUDY_SORTS`, "-" before it descends.

    Raises:
        UserError: an unknown state or order.
    """
    if state is not None and state not in list(StudyState):
        raise UserError(f"state must be one of {', '.join(StudyState)}, got {state[:40]!r}")
    key = sort.removeprefix("-")
    if key not in STUDY_SORTS:
        raise UserError(f"sort must be one of {', '.join(STUDY_SORTS)}, got {key[:40]!r}")

    def read(connection: Transaction) -> tuple[list[T], dict[str, str], int]:
        names, total = lists.page_of_studies(
            connection,
            text=text,
            state=None if state is None else StudyState(state),
            sort=key,
            descending=sort.startswith("-"),
            page=page,
            size=size,
        )
        found, damaged = lists.each_readable(names, partial(of, connection))
        return found, damaged, total

    studies, damaged, total = database.read(read)
    return StudyPage(tuple(studies), total, page, max(1, -(-total // size)), tuple(damaged.values()))


def card_of(connection: Transaction, name: str) -> StudyCard:
    """One study of the list.

    Raises:
        UnknownStudyError
    """
    now = progress(connection, name)
    return StudyCard(now, lists.improvements(connection, now.row), seconds_left(now))
