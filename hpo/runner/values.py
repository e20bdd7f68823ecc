"""What came of an objective: its values, a sentence that says what is wrong, or that the setting diverged.

NaN is no result that is wrong but one that says something: the setting made the training's numbers explode.
So does an exception that says so, by `diverged = True` (as `objectives.DivergedError` does; nothing need be
imported) or by being Python's own FloatingPointError.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from typing import Any

from hpo.text import size
from storage.database.records import Need
from storage.files.room import is_full, told_where


class RankError(Exception):
    """A further process of those that train the trial together failed: what it told."""


class BadValueError(Exception):
    """The objective returned something that is not a result."""


class NotANumberError(Exception):
    """The objective returned NaN: the setting diverged."""


class TogetherError(Exception):
    """Several trials were trained as one, and that failed: nobody knows by whose fault.

    Args:
        why: for people.
        need: what each needs to itself when it is tried again.
    """

    def __init__(self, why: str, need: Need) -> None:
        super().__init__(why)
        self.need = need


class ProgramError(Exception):
    """A program that is the objective failed, or said what cannot be used: the sentence says all there is."""


class ProgramKilledError(ProgramError):
    """Somebody else killed the program, which is no more its fault than a runner's is."""


def checked_values(returned: Any, directions: int) -> tuple[float, ...]:
    """The returned number or numbers as floats, one per direction; an infinite one is a result, as in Optuna.

    Raises:
        NotANumberError: one of them, at least, is NaN.
        BadValueError: None, text, or the wrong number of values.
    """
    many = isinstance(returned, Sequence) and not isinstance(returned, str | bytes)
    values = list(returned) if many else [returned]
    if len(values) != directions:
        raise BadValueError(
            f"the objective returned {_shown(returned)}; the study has {directions} "
            f"direction{'s' if directions > 1 else ''}, so it must return {_wanted(directions)}"
        )
    numbers = tuple(_number(value, returned, directions) for value in values)
    if any(math.isnan(number) for number in numbers):
        raise NotANumberError(f"the objective returned {_shown(returned)}: this setting diverged")
    return numbers


def says_diverged(error: BaseException) -> bool:
    """Whether the error, or what it was raised from, says that the training diverged."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, FloatingPointError) or getattr(found, "diverged", False) is True:
            return True
        found = found.__cause__
    return False


def told(error: BaseException) -> str:
    """The traceback from the objective on, without our own frame; of a program its sentence."""
    if isinstance(error, ProgramError | RankError):
        return f"{error}\n"
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    text = "".join(traceback.format_exception(type(error), error, frames))
    if isinstance(error, SystemExit):
        text += f"the objective called sys.exit({error.code!r}); return a value or raise an exception\n"
    if is_full(text) and "the file system at" not in text:
        text += f"{told_where(error)}\n"
    return text


def _number(value: Any, returned: Any, directions: int) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise BadValueError(
            f"the objective returned {_shown(returned)}; it must return {_wanted(directions)}"
        ) from None


def _wanted(directions: int) -> str:
    return "a number" if directions == 1 else f"{directions} numbers"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_attribute(key: str, value_json: str, most: int) -> None:
    """Demand that an attribute has no more than `most` bytes of JSON.

    Raises:
        ValueError: it has.
    """
    if len(value_json) > most:
        raise ValueError(
            f"attribute {key[:100]!r} takes {size(len(value_json))}, limits.attribute is "
            f"{size(most)}; trial.artifact() keeps larger things"
        )
