"""Constraints of the study file: a bound for a metric that trials log, as `"<= 0.5"`."""

from __future__ import annotations

import math
import re
from typing import Any

from hpo.spec.problems import problem, shown

_FORM = re.compile(r"\s*([<>]=)\s*(\S+)\s*")


def check_limit(text: Any) -> str:
    """`text` with its number as a float's, if it is a bound.

    Raises:
        PydanticCustomError: saying which form is expected.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    try:
        bound = float(match[2]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise problem(f'must be a bound like "<= 0.5" or ">= 0.9", in quotes, got {shown(text)}')
    return f"{match[1]} {bound!r}"


def breach(limit: str, value: float | None) -> float:
    """How far a value is beyond a limit that was checked: at most 0 keeps it; None or NaN: infinitely."""
    if value is None or math.isnan(value):
        return math.inf
    sign, bound = limit.split()
    return value - float(bound) if sign == "<=" else float(bound) - value
