"""What an objective returned: the values of its directions, or a sentence that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class BadValueError(Exception):
    """The objective returned something that is not a result."""


def checked_values(returned: Any, directions: int) -> tuple[float, ...]:
    """The returned number or numbers as finite floats, one per direction.

    Raises:
        BadValueError: None, text, NaN, infinity, or the wrong number of values.
    """
    many = isinstance(returned, Sequence) and not isinstance(returned, str | bytes)
    values = list(returned) if many else [returned]
    if len(values) != directions:
        raise BadValueError(
            f"the objective returned {_shown(returned)}; the study has {directions} "
            f"direction{'s' if directions > 1 else ''}, so it must return {_wanted(directions)}"
        )
    return tuple(_number(value, returned, directions) for value in values)


def _number(value: Any, returned: Any, directions: int) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise BadValueError(
            f"the objective returned {_shown(returned)}; it must return {_wanted(directions)}"
        ) from None
    if not math.isfinite(number):
        raise BadValueError(f"the objective returned {number}; a result must be finite")
    return number


def _wanted(directions: int) -> str:
    return "a number" if directions == 1 else f"{directions} numbers"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
