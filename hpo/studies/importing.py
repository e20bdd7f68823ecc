"""Make a study of trials that ended elsewhere, so that everything here reads, reports and extends it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import SpecError, UserError
from hpo.search.space import check_point, distribution
from hpo.settings import Settings
from hpo.spec import StudySpec, parse_spec
from hpo.spec.points import missing_names
from hpo.spec.problems import listed
from hpo.studies import creation
from hpo.studies.sources import Observed, Source
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.queue.optuna_rows import DIVERGED

NO_OBJECTIVE = "no_objective_was_named"  # a module nobody has: such a study can be read, not continued
_SHOWN = 10  # sentences about trials that do not fit


@dataclass(frozen=True)
class Imported:
    """What became of an import."""

    row: StudyRow
    notes: tuple[str, ...]


def derived_spec(source: Source, name: str | None, objective: str | None) -> tuple[StudySpec, list[str]]:
    """A spec for an Optuna study: its directions, and its space where all trials have the same one.

    Otherwise the space stays empty and the objective suggests for itself, as in plain Optuna. Returns
    the spec and what there is to say about it.

    Raises:
        SpecError: the study's name cannot be one here.
    """
    notes = [] if objective else ["no objective is named, so the study can be looked at, but not extended"]
    content = {
        "study": name or source.name,
        "objective": objective or NO_OBJECTIVE,
        "directions": list(source.directions or ()),
        "sampler": "tpe",
        "budget": {"trials": max(len(source.trials), 1)},
    }
    space = _common_space(source.trials)
    if space:
        try:
            return parse_spec({**content, "space": space}), notes
        except SpecError:
            parse_spec(content)  # or is it something else that is wrong?
    why = "its trials do not all have the same parameters and ranges"
    return parse_spec(content), [*notes, f"{why}: the objective suggests for itself, as in plain Optuna"]


def import_study(
    database: Database, settings: Settings, spec: StudySpec, source: Source, *, skip: bool = False
) -> Imported:
    """Store the source's finished trials as the history of a new study, which is finished then.

    `hpo extend` lets it go on: a budget in `spec` does not count. Failed trials stay failed.

    Args:
        database: where the study goes.
        settings: where its files will go.
        spec: what the study is.
        source: the trials.
        skip: leave out what does not fit instead of refusing everything.

    Raises:
        UserError: the name is taken, the directions differ, a trial does not fit, or none is left.
    """
    if spec.sampler.name == "grid":
        raise UserError(
            "a grid's trials are its cells, so it cannot take over others; choose another sampler"
        )
    if source.directions is not None and source.directions != spec.directions:
        raise UserError(
            f"{source.name} is to {listed(source.directions)}, but the study file says "
            f"{listed(spec.directions)}"
        )
    ended = [trial for trial in source.trials if trial.state.is_finished()]
    trials: list[FrozenTrial] = []
    problems: list[str] = []
    for observed in ended:
        try:
            trials.append(_fitted(spec, observed))
        except UserError as error:
            problems.append(f"{observed.where}: {error}")
    if problems and not skip:
        raise UserError(
            f"{len(problems)} of {len(ended)} trials of {source.name} do not fit {spec.study}; nothing was "
            "imported (--skip leaves them out):\n" + _lines(problems)
        )
    if not trials:
        raise UserError(f"{source.name} has no finished trial that could be imported")
    row = creation.create(database, spec, settings, history=trials)
    notes = [f"left out {len(problems)} that do not fit:\n{_lines(problems)}"] if problems else []
    if len(ended) < len(source.trials):
        notes.append(f"{len(source.trials) - len(ended)} trials that have not ended are left out")
    return Imported(row, tuple(notes))


def _fitted(spec: StudySpec, observed: Observed) -> FrozenTrial:
    """The trial with the study's own distributions.

    Raises:
        UserError: a value is NaN or missing, or a parameter does not fit the space.
    """
    values = observed.values
    if values is None and observed.state is TrialState.COMPLETE:
        raise UserError("it has no value; give it the state failed, diverged or pruned")
    if observed.state is TrialState.FAIL:
        values = None
    if values is not None and len(values) != len(spec.directions):
        raise UserError(f"it has {len(values)} values, but the study has {len(spec.directions)} directions")
    if values is not None and any(math.isnan(value) for value in values):
        raise UserError(f"its value must be a finite number, got {listed(map(str, values))}")
    if unclear := [name for name, value in observed.constraints.items() if math.isnan(value)]:
        raise UserError(f"its constraint {unclear[0]} must be a number, got nan")
    params, held = dict(observed.params), dict(observed.distributions)
    if spec.space:
        params = _checked(spec, params, whole=observed.state is TrialState.COMPLETE)
        held = {name: distribution(spec.space[name]) for name in params}
    trial = create_trial(
        state=observed.state,
        values=None if values is None else list(values),
        params=params,
        distributions=held,
        intermediate_values=dict(observed.reports),
        user_attrs=dict(observed.user_attrs),
        system_attrs={DIVERGED: True} if observed.diverged else None,
        constraints=dict(observed.constraints),
    )
    trial.datetime_start, trial.datetime_complete = observed.started, observed.ended
    return trial


def _checked(spec: StudySpec, params: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    point = check_point(spec, params) if params else {}
    if whole and (missing := missing_names(spec.space, point)):
        raise UserError(f"it has no value for {listed(missing)}")
    return point


def _common_space(trials: Sequence[Observed]) -> dict[str, Any] | None:
    """The space that every trial with parameters has; None when they differ or there is none."""
    found = [trial.distributions for trial in trials if trial.distributions]
    if not found or any(dict(held) != dict(found[0]) for held in found):
        return None
    return {name: _definition(held) for name, held in found[0].items()}


def _definition(held: BaseDistribution) -> dict[str, Any]:
    """A distribution as a study file writes it."""
    match held:
        case CategoricalDistribution():
            return {"type": "categorical", "choices": list(held.choices)}
        case IntDistribution() | FloatDistribution():
            kind = "int" if isinstance(held, IntDistribution) else "float"
            limits = {"type": kind, "low": held.low, "high": held.high, "log": held.log}
            return limits if held.step is None else {**limits, "step": held.step}
    raise TypeError(f"unknown distribution: {held}")


def _lines(problems: Sequence[str]) -> str:
    shown = [f"  {line}" for line in problems[:_SHOWN]]
    more = len(problems) - len(shown)
    return "\n".join([*shown, *([f"  ... and {more} more"] if more else [])])
