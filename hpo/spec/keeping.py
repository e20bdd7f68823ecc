"""How much of a study's trained weights stays on the disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hpo.spec.fields import Number, Section, Whole, at_least, at_most
from hpo.spec.problems import problem, shown

MAX_KEPT = 1_000_000
_PART = re.compile(r"(best|last)\s+(\d{1,9}|all)|(pruned)\s+(\d{1,2}|100)\s?%")
_FORM = "must be like {best: 3, last: 1, pruned: 0.1} or best 3, last 1, pruned 10%, got "


def _best(value: Any) -> Any:
    return None if value == "all" else value


class Keep(Section):
    """Which trials keep their weights. Logs, evaluations and other small files always stay."""

    best: Annotated[Annotated[Whole, at_least(1), at_most(MAX_KEPT)] | None, BeforeValidator(_best)] = Field(
        default=5,
        description="So many best trials keep their weights (model.pt, or else their newest checkpoint) when"
        " they are over; with several directions the Pareto front does. null or all: every trial.",
    )
    last: Annotated[Whole, at_least(1), at_most(MAX_KEPT)] = Field(
        default=2, description="Newest checkpoints of a running trial; two, for one may be damaged."
    )
    pruned: Annotated[Number, at_least(0), at_most(1)] = Field(
        default=0.0,
        description="Share of the pruned trials (0 to 1, by their tickets' numbers) that keep their newest"
        " checkpoints, for `hpo regret` and `hpo unprune` to go on from; others train anew.",
    )


def short_form(value: Any) -> Any:
    """`best 3, last 1` as the mapping it stands for; anything else as it is.

    Raises:
        PydanticCustomError: it is text of another form.
    """
    if value is None or isinstance(value, Mapping | Keep):
        return {} if value is None else value
    if not isinstance(value, str):
        raise problem(_FORM + shown(value))
    found: dict[str, Any] = {}
    for part in value.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or (match[1] or match[3]) in found:
            raise problem(_FORM + shown(value))
        if match[3]:
            found["pruned"] = int(match[4]) / 100
        else:
            found[match[1]] = "all" if match[2] == "all" else int(match[2])
    return found
