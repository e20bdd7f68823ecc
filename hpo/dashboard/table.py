"""The table of trials: which, in which order, with which columns; what is asked for stands in the address."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hpo import text
from hpo.dashboard.live import LiveStudy
from hpo.errors import UserError
from hpo.studies import selection
from storage.database.clock import read_now, to_datetime
from storage.database.engine import Transaction
from storage.database.records import StudyRow
from storage.history.lists import page_of_trials
from storage.history.records import StudyHistory, TrialRecord
from storage.history.trials import Part, metrics_of, read_trials

SIZES = (25, 50, 100, 250)  # rows of a page on the study's page
MAX_WHERE = 2000  # characters of a filter
MAX_COLUMNS = 60
_TITLES = {"number": "Trial", "last_report": "Last report", "steps": "Reports", "seconds": "Time"}
_LEFT = ("state", "worker", "runner", "device", "tag", "note", "error")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


@dataclass(frozen=True)
class Wish:
    """Which trials, in which order, on which page."""

    where: str = ""  # conditions, as `hpo trials --where` reads them
    sort: str = "-number"  # any name, "-" before it descends
    columns: tuple[str, ...] = ()  # (): the usual ones
    page: int = 1
    size: int = 25


@dataclass(frozen=True)
class TrialPage:
    """One page of trials."""

    trials: tuple[TrialRecord, ...]
    total: int  # that meet the conditions
    page: int  # 1-based
    pages: int
    now: datetime | None  # by the database's clock, for attempts that run


def wish_of(query: Mapping[str, str], page: int, size: int, sort: str = "-number") -> Wish:
    """What an address asks for.

    Raises:
        UserError: it is too long.
    """
    where = conditions_of(query)
    columns = tuple(dict.fromkeys(filter(None, map(str.strip, query.get("columns", "").split(",")))))
    if len(columns) > MAX_COLUMNS:
        raise UserError(f"{len(columns)} columns are too many; ask for at most {MAX_COLUMNS}")
    return Wish(where, query.get("sort") or sort, columns, page, size)


def conditions_of(query: Mapping[str, str]) -> str:
    """The filter of an address; `state=pruned` is one more condition.

    Raises:
        UserError: it is too long.
    """
    where = query.get("where", "").strip()
    if state := query.get("state"):
        where = f"{where} {shlex.quote('state=' + state)}".strip()
    if len(where) > MAX_WHERE:
        raise UserError(f"a filter may have at most {MAX_WHERE} characters, this one has {len(where):,}")
    return where


def list_trials(
    live: LiveStudy, wish: Wish, *, history: StudyHistory | None = None, whole: bool = False
) -> TrialPage:
    """One page of a study's trials. Without conditions, by number, and without the study's `history` of this
    moment it is cut in SQL; else in memory. `whole`: with all reports and metrics.

    Raises:
        UserError: a condition, an order or a column that cannot be read, or that no trial has.
    """
    start, row = (wish.page - 1) * wish.size, live.row
    down, chosen = wish.sort == "-number", None
    if wish.where or wish.sort not in ("number", "-number"):
        chosen = live.chosen(wish.where, wish.sort, history).trials
    elif history is not None:
        chosen = history.trials[::-1] if down else history.trials

    def read(connection: Transaction) -> TrialPage:
        trials: Sequence[TrialRecord]
        if chosen is None:
            ids, total = page_of_trials(connection, row, descending=down, page=wish.page, size=wish.size)
            found = read_trials(connection, row, ids, with_=Part.WHOLE if whole else Part.LINE)
            trials = [found[i] for i in ids]
        else:
            trials, total = chosen[start : start + wish.size], len(chosen)
        now = to_datetime(read_now(connection))
        trials = _measured(connection, row, trials, None if whole else wish.columns)
        return TrialPage(trials, total, wish.page, max(1, -(-total // wish.size)), now)

    return live.database.read(read)


def _measured(
    connection: Transaction, row: StudyRow, trials: Sequence[TrialRecord], columns: Sequence[str] | None
) -> tuple[TrialRecord, ...]:
    """The trials with the metrics that are columns; None: with all."""
    wanted = None if columns is None else selection.metrics_in(trials, names=columns)
    if wanted != set():
        found = metrics_of(connection, row, [trial.number for trial in trials], wanted)
        trials = [replace(trial, metrics=found.get(trial.number, {})) for trial in trials]
    return tuple(trials)


def usual_columns(row: StudyRow, trials: Sequence[TrialRecord]) -> list[str]:
    """The columns of a table nobody chose any for: with the parameters of the study file and of these."""
    names = dict.fromkeys([*row.spec.get("space", {}), *(name for trial in trials for name in trial.params)])
    many = len(row.spec["directions"])
    values = ["value"] if many == 1 else [f"value:{place}" for place in range(1, many + 1)]
    plain = [f"param:{name}" if name in selection.FIELDS else name for name in names]
    marks = [name for name in ("tag", "note") if any(selection.FIELDS[name](trial) for trial in trials)]
    after = ["last_report", "steps", "seconds", *plain, "attempts", "worker", *marks, "error"]
    return ["number", "state", *values, *after]


def more_columns(known: StudyHistory) -> list[str]:
    """Columns that nobody sees unless they ask: metrics, and what a trial is beside the usual ones."""
    metrics = sorted({name for trial in known.trials for name in trial.metrics})
    kinds = ("metric:", "min:", "max:")
    return [
        "score",
        "runner",
        "device",
        "feasible",
        "star",
        "tag",
        "note",
        *(kind + name for name in metrics for kind in kinds),
    ]


def quick_filters(where: str, several: bool, marked: bool) -> list[tuple[str, str, bool]]:
    """Conditions at hand: what each is called, the filter with or without it, and whether it holds now."""
    best = ("on the front", "front=true") if several else ("best 10 %", "best=10%")
    found = []
    usual = [best, ("without pruned", "state!=pruned"), ("failed", "state=failed,diverged")]
    for name, one in [*usual, ("starred", "star")] if marked else usual:
        left = [word for word in where.split() if word != one]
        on = len(left) < len(where.split())
        found.append((name, " ".join(left if on else [*left, one]), on))
    return found


def heading(name: str, value_names: Sequence[str]) -> str:
    """A column's title."""
    kind, _, rest = name.partition(":")
    place = 0 if name == "value" else selection.place_of(name)
    if place is not None and place < len(value_names):
        return text.label(value_names[place].capitalize(), 24)
    if name in selection.FIELDS:
        return _TITLES.get(name, name.capitalize())
    return text.label({"param": rest, "metric": f"last {rest}"}.get(kind, name.replace(":", " ")), 20)


def moved(columns: Sequence[str], name: str, by: int) -> str:
    """The columns of an address with one of them `by` places further right; 0: without it."""
    names = list(columns)
    place = names.index(name)
    del names[place]
    if by:
        names.insert(place + by, name)
    return ",".join(names)


def is_left(name: str) -> bool:
    """Whether a column holds text."""
    return name in _LEFT


def cell(trial: TrialRecord, name: str, now: datetime | None) -> str:
    """What stands in a column, as a person reads it."""
    if name == "seconds":
        return text.duration(trial.seconds_until(now))
    found = selection.look_up(trial, name)
    if found is None:
        return "" if name in ("error", "tag", "note") else "–"
    if isinstance(found, float) and name not in trial.params:
        return text.number(found, 5)
    return (
        text.number(found)
        if name == "steps"
        else text.label(text.value(found), 80 if name == "error" else 24)
    )


def as_csv(live: LiveStudy, wish: Wish) -> bytes:
    """Every trial that meets the conditions, in this order, with these columns.

    Raises:
        UserError: as `list_trials`.
    """
    chosen: Sequence[TrialRecord] = live.chosen(wish.where, wish.sort).trials
    columns = list(wish.columns) or usual_columns(live.row, chosen)
    chosen = live.database.read(_measured, live.row, chosen, columns)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(map(_safe, columns))
    writer.writerows([_safe(selection.look_up(trial, name)) for name in columns] for trial in chosen)
    return file.getvalue().encode()


def _safe(found: Any) -> Any:
    """Text that no spreadsheet takes for a formula."""
    return f"'{found}" if isinstance(found, str) and found.startswith(_FORMULA) else found
