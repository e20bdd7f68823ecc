"""What a study file says beside the search itself: what ends it, is tried again, kept, used and confirmed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from hpo.spec.fields import Number, Section, Whole, above, at_least, at_most, whole
from hpo.spec.problems import problem, shown

MAX_TRIALS = 1_000_000
MAX_EPOCHS = 1_000_000_000
MAX_SECONDS = 10 * 365 * 86_400
MAX_KEPT = 1_000_000
MAX_BYTES = 2**50
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([kKMGT]?)(i?)B")
_KEPT = re.compile(r"(best|last)\s+(\d{1,9}|all)|(pruned)\s+(\d{1,2}|100)\s?%")
_KEPT_FORM = "must be like {best: 3, last: 1, pruned: 0.1} or best 3, last 1, pruned 10%, got "

Seconds = Annotated[Number, above(0), at_most(MAX_SECONDS)]


class Budget(Section):
    """What ends the study; whatever is met first."""

    trials: Annotated[Whole, at_least(1), at_most(MAX_TRIALS)] | None = Field(
        None, description="Number of trials, enqueued points included."
    )
    seconds: Seconds | None = Field(
        None, description="Wall-clock seconds from the first claim; stands still while paused."
    )
    epochs: Annotated[Whole, at_least(1), at_most(MAX_EPOCHS)] | None = Field(
        None,
        description="Epochs (distinct reported steps) of all trials together. What a trial may need is"
        " reserved when it starts: `fixed.epochs` or the pruner's max_epochs says it.",
    )
    target: Number | None = Field(
        None, description="Objective value that is good enough, in the objective's unit; one direction only."
    )

    patience: Annotated[Whole, at_least(1), at_most(MAX_TRIALS)] | None = Field(
        None,
        description="Trials in a row that brought no better result; one that is parked counts once. With"
        " several directions what is on the Pareto front is a better one.",
    )

    @property
    def is_empty(self) -> bool:
        """Whether nothing here would end a study."""
        return all(limit is None for limit in self.model_dump().values())


class Retry(Section):
    """Further attempts at a trial, by what ended the last one."""

    lost: Annotated[Whole, at_least(0), at_most(1000)] = Field(
        3, description="Further attempts after a worker was lost."
    )
    failed: Annotated[Whole, at_least(0), at_most(1000)] = Field(
        0, description="Further attempts after an exception in the objective."
    )


def _best(value: Any) -> Any:
    return None if value == "all" else value


class Keep(Section):
    """Which trials keep their weights. Logs, evaluations and other small files always stay."""

    best: Annotated[Annotated[Whole, at_least(1), at_most(MAX_KEPT)] | None, BeforeValidator(_best)] = Field(
        5,
        description="So many best trials keep their weights (model.pt, or else their newest checkpoint) when"
        " they are over; with several directions the Pareto front does. null or all: every trial.",
    )
    last: Annotated[Whole, at_least(1), at_most(MAX_KEPT)] = Field(
        2, description="Newest checkpoints of a running trial; two, for one may be damaged."
    )
    pruned: Annotated[Number, at_least(0), at_most(1)] = Field(
        0.0,
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
        raise problem(_KEPT_FORM + shown(value))
    found: dict[str, Any] = {}
    for part in value.split(","):
        match = _KEPT.fullmatch(part.strip())
        if match is None or (match[1] or match[3]) in found:
            raise problem(_KEPT_FORM + shown(value))
        if match[3]:
            found["pruned"] = int(match[4]) / 100
        else:
            found[match[1]] = "all" if match[2] == "all" else int(match[2])
    return found


def _bytes(value: Any) -> int:
    if not isinstance(value, str):
        return int(whole(value))
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise problem(f"must be a size like 8GB, 500MB or 512MiB, got {shown(value)}")
    power = " KMGT".index(match[2].upper() or " ")
    return round(float(match[1]) * float(1024 if match[3] else 1000) ** power)


Bytes = Annotated[
    int, BeforeValidator(_bytes), at_most(MAX_BYTES), WithJsonSchema({"type": ["integer", "string"]})
]


class Limits(Section):
    """What an attempt may use. One that goes over fails and says so; of a log the middle is left out."""

    memory: Annotated[Bytes, at_least(1_000_000)] | None = Field(
        None, description="Memory of the runner and all it has started, like 8GB; absent: no limit."
    )
    processes: Annotated[Whole, at_least(1)] | None = Field(
        None, description="Processes: the runner and all it has started; absent: no limit."
    )
    log: Annotated[Bytes, at_least(10_000)] = Field(
        50_000_000, description="Size of an attempt's log; beyond it head and tail are kept."
    )
    attribute: Annotated[Bytes, at_least(100)] = Field(
        1_000_000, description="Size of one attribute of a trial or of the study, as JSON."
    )

    @property
    def are_watched(self) -> bool:
        """Whether a worker must look at what its runners use."""
        return self.memory is not None or self.processes is not None


class Confirm(Section):
    """The best settings, and the first, are trained again with fresh seeds when the search has ended."""

    top: Annotated[Whole, at_least(1), at_most(100)] = Field(5, description="How many of the best settings.")
    seeds: Annotated[Whole, at_least(2), at_most(1000)] = Field(
        10, description="Trainings of each, at most: what can no longer win is trained no further."
    )
    in_budget: bool = Field(
        False,
        description="Whether `budget.epochs` is for these trainings, too: the search has as many fewer, and"
        " its first setting is not trained again.",
    )


def switched(value: Any) -> Any:
    """`true` as the defaults, `false` as nothing; anything else as it is."""
    return ({} if value else None) if isinstance(value, bool) else value
