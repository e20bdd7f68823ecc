"""The study file as a frozen, validated value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from hpo.spec.command import Command, check_command, check_places, shown_command
from hpo.spec.conditions import check_conditions
from hpo.spec.fields import (
    Section,
    StudyName,
    Text,
    Whole,
    at_least,
    at_most,
    check_json,
    check_name,
    share,
    whole,
)
from hpo.spec.grid import MAX_CELLS, count_cells, distinct, grid_size
from hpo.spec.limits import check_limit
from hpo.spec.notifying import Channel, channels
from hpo.spec.objective import check_objective, parse_objective
from hpo.spec.parameters import Parameter
from hpo.spec.points import check_partial_point
from hpo.spec.problems import nearest, problem, shown, within
from hpo.spec.sampling import (
    AshaPruner,
    HyperbandPruner,
    NoPruner,
    PrunerSpec,
    SamplerSpec,
    TpeSampler,
    named,
)
from hpo.spec.sections import Budget, Confirm, Keep, Limits, Retry, Seconds, short_form, switched
from objectives.imports import ObjectivePath

Direction = Literal["minimize", "maximize"]
DIRECTIONS = ("minimize", "maximize")
MAX_NAMES = 500  # of parameters, or of fixed values
MAX_LANES = 1024
MAX_RANKS = 64
AUTO_LANES, AUTO_LEARNING = 64, 16  # at most, of `auto`; the second where samplers learn from what has ended
NOT_IDENTITY = frozenset(
    {"budget", "retry", "keep", "limits", "confirm", "notify", "proposals", "notes", "chosen"}
)

_TEXT_OR_NUMBER = {"type": ["string", "number", "boolean"]}
_ARGUMENT_SCHEMA = {"anyOf": [_TEXT_OR_NUMBER, {"type": "array", "minItems": 1, "items": _TEXT_OR_NUMBER}]}


def _directions(value: Any) -> Any:
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise problem("must hold at least one direction")
    for index, direction in enumerate(values):
        if direction not in DIRECTIONS:
            at = (index,) if isinstance(value, list | tuple) else ()
            begun = [one for one in DIRECTIONS if one.startswith(str(direction).lower()) and direction]
            near = nearest(begun[0] if len(begun) == 1 else direction, DIRECTIONS)
            raise problem(f"must be minimize or maximize, got {shown(direction)}{near}", *at)
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
        None,
        description="A program as objective, by its arguments; {name} stands for a parameter or fixed value."
        " It runs in the study file's folder and reports in lines of JSON.",
    )
    directions: Annotated[tuple[Direction, ...], BeforeValidator(_directions)] = Field(
        description="What to do with each of the objective's values, in the order it returns them."
    )
    sampler: Annotated[SamplerSpec, BeforeValidator(named)] = Field(
        TpeSampler(name="tpe"),
        description="How points are chosen; a bare name takes its defaults. auto, or absent: chosen when the"
        " study is created.",
    )
    pruner: Annotated[PrunerSpec, BeforeValidator(named)] = Field(
        NoPruner(name="none"),
        description="How hopeless trials end early; a bare name takes its defaults. auto, or absent like the"
        " sampler: chosen when the study is created.",
    )
    budget: Budget = Field(Budget(), description="What ends the study. Only a grid may leave it out.")
    retry: Retry = Field(Retry(), description="How often a trial is attempted again.")
    keep: Annotated[Keep, BeforeValidator(short_form)] = Field(
        Keep(), description="Which trials keep their weights, as a mapping or short: best 3, last 1."
    )
    limits: Limits = Field(Limits(), description="What an attempt may use, as {memory: 8GB}.")
    enqueue: Annotated[
        tuple[dict[str, Any], ...],
        BeforeValidator(_points),
        WithJsonSchema({"type": "array", "items": {"type": "object", "minProperties": 1}}),
    ] = Field((), description="Points to try first; names a point leaves out are left to the sampler.")
    threads: Annotated[Whole, at_least(1), at_most(1024)] = Field(
        1, description="CPU threads of a runner; part of the study, because it changes the last bits."
    )
    lanes: Annotated[
        int | Literal["auto"],
        BeforeValidator(_lanes),
        WithJsonSchema(
            {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_LANES}, {"const": "auto"}]}
        ),
    ] = Field(
        1,
        description="Trials that a runner trains at once as one batched model, where the objective exports"
        " objective_many and lane_key; auto: many where that pays, else 1. Unless 1 it is part of the study:"
        " sums are added in another order.",
    )
    gpus_per_trial: Annotated[Whole, at_least(1), at_most(MAX_RANKS)] = Field(
        1,
        description="GPUs of one machine that train a trial together, a process on each; without GPUs so many"
        " processes on the CPU. An objective of one's own joins them by `objectives.ranks`. Unless 1 it is"
        " part of the study: sums are added in another order.",
    )
    trial_timeout: Seconds | None = Field(
        None,
        description="Seconds an attempt may take, together with parked ones that it goes on from; absent:"
        " no limit.",
    )
    report_timeout: Seconds | None = Field(
        None, description="Seconds an attempt may go without a report; absent: no limit."
    )
    space: Annotated[dict[str, Parameter], _named_mapping("parameter")] = Field(
        {}, description="Parameters by name; empty: the objective suggests for itself, as in plain Optuna."
    )
    fixed: Annotated[
        dict[str, Any],
        BeforeValidator(_json_mapping),
        _named_mapping("fixed value"),
        WithJsonSchema({"type": "object"}),
    ] = Field({}, description="Values every trial's `config` holds besides its parameters; any JSON value.")
    constraints: Annotated[
        dict[str, Annotated[str, BeforeValidator(check_limit)]], _named_mapping("constraint")
    ] = Field(
        {},
        description='Bounds of logged metrics at the epoch that counts, as {validation_loss: "<= 0.5"}. A'
        " trial that breaks one, or never logged it, is never the best.",
    )
    confirm: Annotated[Confirm | None, BeforeValidator(switched)] = Field(
        None,
        description="Train the best settings again when the search has ended, before the test set is seen;"
        " true: as `hpo confirm` does. One direction only.",
    )
    notify: Annotated[tuple[Channel, ...], BeforeValidator(channels)] = Field(
        (), description="Who is told of its end, a new best, failures, a lost worker, the budget."
    )
    proposals: Annotated[float | None, BeforeValidator(share)] = Field(
        None,
        description="Share of the trials that may be points which people and programs enqueue while it runs,"
        " like 30 %; absent: all.",
    )
    notes: Text = Field("", description="Free text for people; not part of the study's identity.")
    chosen: Text = Field(
        "",
        description="Which sampler and pruner were chosen where the file names none, and why; written when"
        " the study is created.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_each(cls, data: Any) -> Any:
        """`directions` stands for `direction`, and None in the place of `objective` beside a command."""
        if not isinstance(data, Mapping):
            raise problem(
                f"must be a mapping with at least study, objective and direction, got {shown(data)}"
            )
        rest = {key: value for key, value in data.items() if key != "direction"}
        if "direction" in data:
            if "directions" in data:
                raise problem("cannot stand beside `directions`; drop one of the two", "direction")
            if not isinstance(data["direction"], str):
                raise problem(f"must be minimize or maximize, got {shown(data['direction'])}", "direction")
            rest["directions"] = data["direction"]
        if rest.get("command") is not None:
            if rest.get("objective") is not None:
                raise problem("cannot stand beside `objective`; drop one of the two", "command")
            rest["objective"] = None
        elif rest.get("objective", "") is None:
            raise problem("must name a callable, or a `command` must stand in its place", "objective")
        return rest

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.fixed:
            if name in self.space:
                raise problem(
                    "stands under `space` too; a name has one meaning: drop one of the two", "fixed", name
                )
        with within("space"):
            check_conditions(self.space)
        _check_directions(self)
        _check_sampler(self)
        with within("budget", "epochs"):
            _check_epochs(self)
        if self.confirm is not None and self.confirm.in_budget and self.budget.epochs is None:
            raise problem("needs a budget of epochs: set budget.epochs", "confirm", "in_budget")
        _check_command(self)
        if self.gpus_per_trial > 1 and self.lanes != 1:
            raise problem(
                "cannot stand beside lanes: a trial has several devices, or a share of one", "gpus_per_trial"
            )
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
    def search_epochs(self) -> int | None:
        """What of `budget.epochs` is the search's: all but that of a confirmation in the budget."""
        confirm, full = self.confirm, self.full_epochs
        if self.budget.epochs is None or confirm is None or not confirm.in_budget or full is None:
            return self.budget.epochs
        return self.budget.epochs - confirm.top * confirm.seeds * full

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
    def is_exhaustive(self) -> bool:
        """Whether the study ends when every setting of a small finite space was tried."""
        return self.sampler.name != "grid" and self.tickets not in (None, self.budget.trials)

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


def _check_directions(spec: StudySpec) -> None:
    if len(spec.directions) == 1:
        return
    if spec.pruner.name not in ("none", "auto", "asha", "hyperband"):
        raise problem("cannot prune with several directions; use asha, hyperband or none", "pruner")
    if spec.budget.target is not None:
        raise problem("needs a single direction; with several, leave it out", "budget", "target")
    if spec.confirm is not None:
        raise problem("needs a single direction; with several, leave it out", "confirm")
    if (name := spec.sampler.name) in ("cmaes", "rungs"):
        raise problem(f"{name} needs a single direction; use nsga2, tpe or gp", "sampler", "name")


def _check_epochs(spec: StudySpec) -> None:
    if spec.search_epochs is None:
        return
    if spec.full_epochs is None:
        raise problem(
            "must be told how many a trial has: set fixed.epochs, or max_epochs of asha or hyperband"
        )
    if spec.search_epochs < spec.full_epochs:
        asked = spec.budget.epochs or 0
        least, what = spec.full_epochs + asked - spec.search_epochs, "of one trial"
        what += "" if asked == spec.search_epochs else " and of the confirmation"
        raise problem(f"must be at least the {least} {what}, got {asked}")


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
        with within("space", parameter):
            grid_size(definition)
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
    with within("command"):
        check_places(spec.command, spec.space, spec.fixed)


def _checked_enqueue(spec: StudySpec) -> tuple[dict[str, Any], ...]:
    trials = spec.budget.trials
    if trials is not None and len(spec.enqueue) > trials:
        raise problem(f"has {len(spec.enqueue)} points, but budget.trials is {trials}", "enqueue")
    points = []
    for index, point in enumerate(spec.enqueue):
        with within("enqueue", index):
            checked = check_partial_point(spec.space, point)
        for name in checked:
            if not spec.space and name in spec.fixed:
                raise problem("stands under `fixed` too; drop one of the two", "enqueue", index, name)
        points.append(checked)
    return tuple(points)
