"""The study file as a frozen, validated value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from hpo.spec.command import Command, check_command, check_places, shown_command
from hpo.spec.conditions import check_conditions
from hpo.spec.confirming import Confirm, switched
from hpo.spec.fields import (
    Number,
    Section,
    StudyName,
    Text,
    Whole,
    above,
    at_least,
    at_most,
    check_json,
    check_name,
    share,
    whole,
)
from hpo.spec.grid import MAX_CELLS, count_cells, distinct, grid_size
from hpo.spec.keeping import Keep, short_form
from hpo.spec.limits import check_limit
from hpo.spec.notifying import Channel, channels
from hpo.spec.objective import check_objective, parse_objective
from hpo.spec.parameters import Parameter
from hpo.spec.points import check_partial_point
from hpo.spec.problems import moved, nearest, problem, shown
from hpo.spec.resources import Limits
from hpo.spec.sampling import (
    AshaPruner,
    HyperbandPruner,
    NoPruner,
    PrunerSpec,
    SamplerSpec,
    TpeSampler,
    named,
)
from objectives.imports import ObjectivePath

Direction = Literal["minimize", "maximize"]
DIRECTIONS = ("minimize", "maximize")
MAX_NAMES = 500  # of parameters, or of fixed values
MAX_TRIALS = 1_000_000
MAX_EPOCHS = 1_000_000_000
MAX_SECONDS = 10 * 365 * 86_400
MAX_LANES = 1024
AUTO_LANES, AUTO_LEARNING = 64, 16  # at most, of `auto`; the second where samplers learn from what has ended
NOT_IDENTITY = frozenset(
    {"budget", "retry", "keep", "limits", "confirm", "notify", "proposals", "notes", "chosen"}
)

_TEXT_OR_NUMBER = {"type": ["string", "number", "boolean"]}
_ARGUMENT_SCHEMA = {"anyOf": [_TEXT_OR_NUMBER, {"type": "array", "minItems": 1, "items": _TEXT_OR_NUMBER}]}

Seconds = Annotated[Number, above(0), at_most(MAX_SECONDS)]


class Budget(Section):
    """What ends the study; whatever is met first."""

    trials: Annotated[Whole, at_least(1), at_most(MAX_TRIALS)] | None = Field(
        default=None, description="Number of trials, enqueued points included."
    )
    seconds: Seconds | None = Field(
        default=None, description="Wall-clock seconds from the first claim; stands still while paused."
    )
    epochs: Annotated[Whole, at_least(1), at_most(MAX_EPOCHS)] | None = Field(
        default=None,
        description="Epochs (distinct reported steps) of all trials together. What a trial may need is"
        " reserved when it starts: `fixed.epochs` or the pruner's max_epochs says it. One direction only.",
    )
    target: Number | None = Field(
        default=None,
        description="Objective value that is good enough, in the objective's unit; one direction only.",
    )

    patience: Annotated[Whole, at_least(1), at_most(MAX_TRIALS)] | None = Field(
        default=None,
        description="Trials in a row that brought no better result; one that is parked counts once. One"
        " direction only.",
    )

    @property
    def is_empty(self) -> bool:
        """Whether nothing here would end a study."""
        return all(limit is None for limit in self.model_dump().values())


class Retry(Section):
    """Further attempts at a trial, by what ended the last one."""

    lost: Annotated[Whole, at_least(0), at_most(1000)] = Field(
        default=3, description="Further attempts after a worker was lost."
    )
    failed: Annotated[Whole, at_least(0), at_most(1000)] = Field(
        default=0, description="Further attempts after an exception in the objective."
    )


def _nearest_direction(direction: Any) -> str:
    begun = [whole for whole in DIRECTIONS if whole.startswith(str(direction).lower()) and direction]
    return nearest(begun[0] if len(begun) == 1 else direction, DIRECTIONS)


def _directions(value: Any) -> Any:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise problem("must hold at least one direction")
    for index, direction in enumerate(values):
        if direction not in DIRECTIONS:
            at = (index,) if isinstance(value, list | tuple) else ()
            raise problem(
                f"must be minimize or maximize, got {shown(direction)}{_nearest_direction(direction)}", *at
            )
    return tuple(values)


def _named_mapping(what: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise problem(f"must be a mapping from names to {what}s, got {shown(value)}")
        if len(value) > MAX_NAMES:
            raise problem(f"has {len(value)} {what}s; at most {MAX_NAMES} are allowed")
        for name in value:
            check_name(name, what)
        return dict(value)

    return BeforeValidator(check)


def _json_mapping(value: Any) -> Any:
    return {name: check_json(item, name) for name, item in value.items()}


def _points(value: Any) -> Any:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list of points, got {shown(value)}")
    return tuple(value)


def _lanes(value: Any) -> Any:
    if value == "auto":
        return value
    count = whole(value) if not isinstance(value, str) else 0
    if not 1 <= count <= MAX_LANES:
        raise problem(f"must be 1 to {MAX_LANES}, or auto, got {shown(value)}")
    return count


class StudySpec(Section):
    """One search, as its study file describes it. Write `direction` or `directions`, not both; and
    `objective` or `command`."""

    study: StudyName = Field(description="Name of the study; also the name of its directory of artifacts.")
    objective: Annotated[str | None, BeforeValidator(check_objective)] = Field(
        description="module[:callable] or path/to/file.py:callable, relative to the study file; `objective`"
        " is the callable where none is named."
    )
    command: Annotated[
        Command | None,
        BeforeValidator(check_command),
        WithJsonSchema({"type": ["array", "null"], "minItems": 1, "items": _ARGUMENT_SCHEMA}),
    ] = Field(
        default=None,
        description="A program as objective, by its arguments; {name} stands for a parameter or fixed value."
        " It runs in the study file's folder and reports in lines of JSON.",
    )
    directions: Annotated[tuple[Direction, ...], BeforeValidator(_directions)] = Field(
        description="What to do with each of the objective's values, in the order it returns them."
    )
    sampler: Annotated[SamplerSpec, BeforeValidator(named)] = Field(
        default=TpeSampler(name="tpe"),
        description="How points are chosen; a bare name takes its defaults. auto, or absent: chosen when the"
        " study is created.",
    )
    pruner: Annotated[PrunerSpec, BeforeValidator(named)] = Field(
        default=NoPruner(name="none"),
        description="How hopeless trials end early; a bare name takes its defaults. auto, or absent like the"
        " sampler: chosen when the study is created.",
    )
    budget: Budget = Field(default=Budget(), description="What ends the study. Only a grid may leave it out.")
    retry: Retry = Field(default=Retry(), description="How often a trial is attempted again.")
    keep: Annotated[Keep, BeforeValidator(short_form)] = Field(
        default=Keep(), description="Which trials keep their weights, as a mapping or short: best 3, last 1."
    )
    limits: Limits = Field(default=Limits(), description="What an attempt may use, as {memory: 8GB}.")
    enqueue: Annotated[
        tuple[dict[str, Any], ...],
        BeforeValidator(_points),
        WithJsonSchema({"type": "array", "items": {"type": "object", "minProperties": 1}}),
    ] = Field(
        default=(), description="Points to try first; names a point leaves out are left to the sampler."
    )
    threads: Annotated[Whole, at_least(1), at_most(1024)] = Field(
        default=1, description="CPU threads of a runner; part of the study, because it changes the last bits."
    )
    lanes: Annotated[
        int | Literal["auto"],
        BeforeValidator(_lanes),
        WithJsonSchema(
            {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_LANES}, {"const": "auto"}]}
        ),
    ] = Field(
        default=1,
        description="Trials that a runner trains at once as one batched model, where the objective exports"
        " objective_many and lane_key; auto: many where that pays, else 1. Unless 1 it is part of the study:"
        " sums are added in another order.",
    )
    trial_timeout: Seconds | None = Field(
        default=None,
        description="Seconds an attempt may take, together with parked ones that it goes on from; absent:"
        " no limit.",
    )
    report_timeout: Seconds | None = Field(
        default=None, description="Seconds an attempt may go without a report; absent: no limit."
    )
    space: Annotated[dict[str, Parameter], _named_mapping("parameter")] = Field(
        default={},
        description="Parameters by name; empty: the objective suggests for itself, as in plain Optuna.",
    )
    fixed: Annotated[
        dict[str, Any],
        BeforeValidator(_json_mapping),
        _named_mapping("fixed value"),
        WithJsonSchema({"type": "object"}),
    ] = Field(
        default={}, description="Values every trial's `config` holds besides its parameters; any JSON value."
    )
    constraints: Annotated[
        dict[str, Annotated[str, BeforeValidator(check_limit)]], _named_mapping("constraint")
    ] = Field(
        default={},
        description='Bounds of logged metrics at the epoch that counts, as {validation_loss: "<= 0.5"}. A'
        " trial that breaks one, or never logged it, is never the best.",
    )
    confirm: Annotated[
        Confirm | None,
        BeforeValidator(switched),
    ] = Field(
        default=None,
        description="Train the best settings again when the search has ended, before the test set is seen;"
        " true: as `hpo confirm` does. One direction only.",
    )
    notify: Annotated[tuple[Channel, ...], BeforeValidator(channels)] = Field(
        default=(), description="Who is told of its end, a new best, failures, a lost worker, the budget."
    )
    proposals: Annotated[float | None, BeforeValidator(share)] = Field(
        default=None,
        description="Share of the trials that may be points which people and programs enqueue while it runs,"
        " like 30 %; absent: all.",
    )
    notes: Text = Field(default="", description="Free text for people; not part of the study's identity.")
    chosen: Text = Field(
        default="",
        description="Which sampler and pruner were chosen where the file names none, and why; written when"
        " the study is created.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_objective(cls, data: Any) -> Any:
        if data.get("command") is not None:
            if data.get("objective") is not None:
                raise problem("cannot stand beside `objective`; drop one of the two", "command")
            return {**data, "objective": None}
        if data.get("objective", "") is None:
            raise problem("must name a callable, or a `command` must stand in its place", "objective")
        return data

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_direction(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise problem(
                f"must be a mapping with at least study, objective and direction, got {shown(data)}"
            )
        if "direction" not in data:
            return data
        if "directions" in data:
            raise problem("cannot stand beside `directions`; drop one of the two", "direction")
        if not isinstance(data["direction"], str):
            raise problem(f"must be minimize or maximize, got {shown(data['direction'])}", "direction")
        rest = {key: value for key, value in data.items() if key != "direction"}
        return {**rest, "directions": data["direction"]}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_names(self)
        try:
            check_conditions(self.space)
        except PydanticCustomError as error:
            raise moved(error, "space") from None
        _check_directions(self)
        _check_sampler(self)
        _check_epochs(self)
        _check_command(self)
        object.__setattr__(self, "enqueue", _checked_enqueue(self))
        return self

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what makes two specs the same study: all but `NOT_IDENTITY`.

        Fields at their default do not enter it, so a field added later leaves old digests alone.
        """
        same = self.model_dump(mode="json", exclude=set(NOT_IDENTITY), exclude_defaults=True)
        return hashlib.sha256(json.dumps(same, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def full_epochs(self) -> int | None:
        """Epochs of a full trial, as the pruner or `fixed.epochs` says; None: neither does."""
        if isinstance(self.pruner, AshaPruner | HyperbandPruner):
            return self.pruner.max_epochs
        epochs = self.fixed.get("epochs")
        return epochs if isinstance(epochs, int) and epochs > 0 else None

    @property
    def most_lanes(self) -> int:
        """Trials that a runner may train at once: those of `lanes`, no more than the budget has."""
        drawn = self.sampler.name in ("grid", "random", "qmc")
        wanted = (AUTO_LANES if drawn else AUTO_LEARNING) if self.lanes == "auto" else self.lanes
        return min(wanted, self.tickets or wanted)

    @property
    def objective_path(self) -> ObjectivePath | None:
        """The objective's module or file, and its callable; None: it is a command."""
        return None if self.objective is None else parse_objective(self.objective)

    @property
    def shown_objective(self) -> str:
        """The objective, or the command, on one line."""
        return self.objective or shown_command(self.command or ())

    @property
    def tickets(self) -> int | None:
        """How many trials the study has: `budget.trials`, or if fewer a grid's cells, or the settings of a
        small finite space and those that are enqueued again; None: no such limit."""
        if self.sampler.name == "grid":
            count = count_cells(self.space)
        elif (settings := distinct(self.space)) is not None:
            count = len(settings) + sum(point in self.enqueue[:i] for i, point in enumerate(self.enqueue))
        else:
            return self.budget.trials
        return count if self.budget.trials is None else min(count, self.budget.trials)


def _check_names(spec: StudySpec) -> None:
    for name in spec.fixed:
        if name in spec.space:
            raise problem(
                "stands under `space` too; a name has one meaning: drop one of the two", "fixed", name
            )


def _check_directions(spec: StudySpec) -> None:
    if len(spec.directions) == 1:
        return
    if spec.pruner.name not in ("none", "auto"):
        raise problem("cannot prune with several directions; use none", "pruner")
    for name in ("target", "patience"):
        if getattr(spec.budget, name) is not None:
            raise problem("needs a single direction; with several, leave it out", "budget", name)
    if spec.confirm is not None:
        raise problem("needs a single direction; with several, leave it out", "confirm")
    if (name := spec.sampler.name) in ("cmaes", "rungs"):
        raise problem(f"{name} needs a single direction; use nsga2, tpe or gp", "sampler", "name")


def _check_epochs(spec: StudySpec) -> None:
    if spec.budget.epochs is None:
        return
    if len(spec.directions) > 1:
        raise problem("needs a single direction: with several nothing is reported", "budget", "epochs")
    if spec.full_epochs is None:
        raise problem(
            "must be told how many a trial has: set fixed.epochs, or max_epochs of asha or hyperband",
            "budget",
            "epochs",
        )
    if spec.budget.epochs < spec.full_epochs:
        raise problem(
            f"must be at least the {spec.full_epochs} of one trial, got {spec.budget.epochs}",
            "budget",
            "epochs",
        )


def _check_sampler(spec: StudySpec) -> None:
    name = spec.sampler.name
    if name in ("grid", "qmc") and not spec.space:
        raise problem(f"is required: the {name} sampler must know every parameter beforehand", "space")
    if name != "grid":
        if spec.budget.is_empty:
            raise problem(
                f"needs trials, seconds, epochs, target or patience: {name} would never end", "budget"
            )
        return
    for parameter, definition in spec.space.items():
        try:
            grid_size(definition)
        except PydanticCustomError as error:
            raise moved(error, "space", parameter) from None
    if spec.enqueue:
        raise problem("has no meaning for a grid, which visits every cell anyway; leave it out", "enqueue")
    count = spec.tickets or 0
    if count > MAX_CELLS:
        raise problem(
            f"makes a grid of {count:,} cells; at most {MAX_CELLS:,} are allowed: use fewer points,"
            " or set budget.trials to run the first cells only",
            "space",
        )


def _check_command(spec: StudySpec) -> None:
    if spec.command is None:
        return
    if spec.lanes != 1:
        raise problem("needs an objective in Python: a program is one trial; leave it out", "lanes")
    if not spec.space:
        raise problem("is required: a command cannot suggest for itself what is not declared", "space")
    try:
        check_places(spec.command, spec.space, spec.fixed)
    except PydanticCustomError as error:
        raise moved(error, "command") from None


def _checked_enqueue(spec: StudySpec) -> tuple[dict[str, Any], ...]:
    trials = spec.budget.trials
    if trials is not None and len(spec.enqueue) > trials:
        raise problem(f"has {len(spec.enqueue)} points, but budget.trials is {trials}", "enqueue")
    points = []
    for index, point in enumerate(spec.enqueue):
        try:
            checked = check_partial_point(spec.space, point)
        except PydanticCustomError as error:
            raise moved(error, "enqueue", index) from None
        for name in checked:
            if not spec.space and name in spec.fixed:
                raise problem("stands under `fixed` too; drop one of the two", "enqueue", index, name)
        points.append(checked)
    return tuple(points)


__all__ = ["Budget", "Direction", "Retry", "StudySpec"]
