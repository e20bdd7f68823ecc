"""What a trial counts for: its value, the best trial, names for axes, and thinning of long lists.

Three rules hold in every record: a value that is NaN or infinite never counts, a trial that breaks a
constraint is never better than one that does not, and of equal values the trial with the lowest number is the
better one. A pruned trial counts with its last reported value where a record says so, and is marked.
"""

from __future__ import annotations

import inspect
import math
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar, cast

from storage.database.records import OBJECTIVE
from storage.history.records import Direction, StudyHistory, TrialRecord

T = TypeVar("T")
P = ParamSpec("P")

MAX_POINTS = 1000  # points of one picture; more cannot be told apart and make the file heavy
KEPT = 50  # best trials that are always among them
Over = Literal["trials", "epochs", "seconds"]


@dataclass(frozen=True)
class Score:
    """One trial with the finite value it counts for."""

    trial: TrialRecord
    value: float
    pruned: bool = False  # then `value` is the last finite report

    @property
    def number(self) -> int:
        return self.trial.number


def final_value(trial: TrialRecord, objective: int = 0) -> float | None:
    """The finite final value of a complete trial; None otherwise."""
    if trial.state != "complete" or trial.values is None or objective >= len(trial.values):
        return None
    value = trial.values[objective]
    return float(value) if value is not None and math.isfinite(value) else None


def once(work: Callable[P, T]) -> Callable[P, T]:
    """Have it worked out once for each of the last few histories, however many charts ask, even at once: a
    second thread waits for the first instead of working out the same beside it. Of another history, or of
    another objective, it does not wait. What an argument is by default and the same in words is one question.
    """
    lock, asked = threading.Lock(), lru_cache(maxsize=8)(lambda *_, **__: _Answer())
    signature = inspect.signature(work)

    @wraps(work)
    def ask(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with lock:
            answer = asked(*bound.args, **bound.kwargs)  # hashed by identity
        with answer.lock:
            if not answer.found:
                answer.found = [work(*args, **kwargs)]
            return cast("T", answer.found[0])

    return ask


class _Answer:
    """What one question came to, once it has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: list[Any] = []


@once
def scores(history: StudyHistory, objective: int = 0, *, pruned: bool = True) -> tuple[Score, ...]:
    """Every trial with a finite value, in order of numbers; pruned ones with their last report."""
    found = []
    for trial in history.trials:
        value = final_value(trial, objective)
        if value is not None:
            found.append(Score(trial, value))
        elif pruned and trial.state == "pruned" and len(history.directions) == 1:
            reported = trial.last_report
            if reported is not None:
                found.append(Score(trial, reported, pruned=True))
    return tuple(found)


def is_better(value: float, than: float | None, direction: Direction) -> bool:
    """Strictly better, so that of equal values the first one seen stays best."""
    if than is None:
        return True
    return value > than if direction == "maximize" else value < than


def ranked(found: Iterable[Score], direction: Direction) -> list[Score]:
    """Feasible ones first, of these complete ones, each the best first; equals by number."""
    sign = -1.0 if direction == "maximize" else 1.0
    return sorted(
        found, key=lambda score: (not score.trial.feasible, score.pruned, sign * score.value, score.number)
    )


def value_name(history: StudyHistory, objective: int = 0) -> str:
    """What the objective's value is called.

    With several directions the name that the study file gives it, as our objectives read it: `fixed:
    {objective: [accuracy, flops]}`. Else the name of the logged metric that equals the reported value at
    every step of every trial that has both ("accuracy"), or with several directions, where nothing is
    reported, that ends on every final value. Else the validation metric that equals the best trial's value,
    "objective value", or "objective 2" with several directions.
    A selection of trials calls it what the whole study does.
    """
    if history.value_names:
        return history.value_names[objective]
    many = len(history.directions) > 1
    given = (history.spec.get("fixed") or {}).get("objective")
    if many and isinstance(given, list) and len(given) == len(history.directions):
        return str(given[objective])
    agreeing: dict[str, bool] = {}
    for trial in history.trials:
        if not trial.metrics:
            continue
        final = final_value(trial, objective)
        for name, series in trial.metrics.items():
            if many and series and final is not None:
                agreeing[name] = agreeing.get(name, True) and series[max(series)] == final
            common = series.keys() & trial.reports.keys()
            if not many and common and agreeing.get(name, True):
                agreeing[name] = all(series[step] == trial.reports[step] for step in common)
    agreed = [name for name, agrees in agreeing.items() if agrees and not name.startswith(OBJECTIVE)]
    names = sorted(agreed, key=lambda name: (len(name), name))
    if names:
        return names[0]
    return f"objective {objective + 1}" if many else _evaluated_name(history) or "objective value"


def _evaluated_name(history: StudyHistory) -> str | None:
    """The first metric of the validation of the trial to use that equals its value; None where none does."""
    best, evaluation = history.chosen, history.winner_evaluation
    metrics = evaluation.get("metrics") if isinstance(evaluation, Mapping) else None
    value = final_value(best) if best else None
    if value is None or not isinstance(metrics, Mapping):
        return None
    for name, measured in metrics.items():
        if isinstance(measured, float) and math.isclose(measured, value, rel_tol=1e-6):
            return str(name)
    return None


def value_axis(history: StudyHistory, objective: int = 0) -> str:
    """The value's name and which way is better, for an axis."""
    better = "higher" if history.directions[objective] == "maximize" else "lower"
    return f"{value_name(history, objective)} ({better} is better)"


def step_name(history: StudyHistory) -> str:
    """ "epoch" where the study file speaks of epochs, "step" otherwise."""
    fixed, pruner = history.spec.get("fixed") or {}, history.spec.get("pruner") or {}
    return "epoch" if "epochs" in fixed or "max_epochs" in pruner else "step"


def origin(history: StudyHistory) -> datetime | None:
    """When the study's clock starts: the first start of a trial."""
    return min((trial.started for trial in history.trials if trial.started), default=None)


def thin(items: Sequence[T], limit: int, keep: Callable[[T], bool] = lambda _: False) -> tuple[T, ...]:
    """About `limit` items at most, evenly spaced; the first, the last and what `keep` names stay."""
    if len(items) <= limit:
        return tuple(items)
    stride = (len(items) - 1) / max(1, limit - 1)
    chosen = {round(index * stride) for index in range(limit)}
    return tuple(item for index, item in enumerate(items) if index in chosen or keep(item))


def sample(items: Sequence[T], limit: int, keep: Callable[[T], bool] = lambda _: False) -> tuple[T, ...]:
    """About `limit` items at most: the first, the last, what `keep` names, and of the others some at random,
    the same each time and when more are added. (What is evenly spaced would hide whatever comes every tenth.)
    """
    if len(items) <= limit:
        return tuple(items)
    chosen = {0, len(items) - 1, *(index for index, item in enumerate(items) if keep(item))}
    drawn = _lots(len(items))
    left = max(0, limit - len(chosen))
    chosen.update([index for index in drawn[: limit + len(chosen)] if index not in chosen][:left])
    return tuple(items[index] for index in sorted(chosen))


@lru_cache(maxsize=32)
def _lots(count: int) -> list[int]:
    """So many places, in an order as good as random."""
    return sorted(range(count), key=lambda index: zlib.crc32(b"%d" % index))


@once
def best_first(history: StudyHistory, objective: int = 0) -> tuple[Score, ...]:
    """Every score, pruned ones too, as `ranked`."""
    return tuple(ranked(scores(history, objective), history.directions[objective]))


def best_numbers(history: StudyHistory, objective: int = 0) -> frozenset[int]:
    """Numbers of the best `KEPT` trials, which no picture leaves out."""
    return frozenset(score.number for score in best_first(history, objective)[:KEPT])


def shown_note(
    shown: int, total: int, what: str = "trials", how: str = "the best and others at random"
) -> str:
    """The sentence under a capped picture; empty where everything is shown."""
    return "" if shown >= total else f"{shown:,} of {total:,} {what} shown, {how}."
