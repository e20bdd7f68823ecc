"""Start a study from another one: its best points are tried first, its history is shown to the sampler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

from hpo.errors import UserError
from hpo.search.auto import chosen
from hpo.search.prior import LEARNING, MAX_PRIOR
from hpo.search.space import distribution
from hpo.spec import StudySpec
from hpo.spec.points import check_partial_point, check_value
from hpo.spec.problems import dotted, found
from hpo.studies import reading
from storage.database.engine import Database
from storage.history.records import StudyHistory, TrialRecord, ranked


@dataclass(frozen=True)
class WarmStart:
    """What a new study takes from another."""

    points: tuple[Mapping[str, Any], ...]  # to try first, best first
    prior: (
        Mapping[str, Any] | None
    )  # {"study": name, "trials": [{"params", "values" (None: diverged), maybe "constraints"}]}, oldest first
    notes: tuple[str, ...]  # sentences for the person: what was taken, what was left out and why


def warm_start(database: Database, spec: StudySpec, other: str, top: int) -> WarmStart:
    """The `top` best points of the study `other` that fit the new space, and its trials.

    The complete and the diverged ones go to the sampler alone, and only where both spaces and directions
    agree: they are no trials of the new study, which neither its budget nor its best counts.

    Raises:
        UserError: the new study is a grid, which visits every cell anyway, or `top` is below 0.
        NotFoundError: there is no study named `other`.
    """
    if spec.sampler.name == "grid":
        raise UserError(f"{spec.study} is a grid, which visits every cell anyway: leave --from out")
    if top < 0:
        raise UserError(f"--top must be 0 or more, got {top}")
    spec = chosen(spec)
    history = reading.history(database, other, evaluated=False)
    theirs = StudySpec.model_validate(history.spec)
    points, notes = _best_points(spec, history, top)
    prior, said = _prior(spec, theirs, history)
    return WarmStart(points, prior, (*notes, *said))


def _best_points(
    spec: StudySpec, history: StudyHistory, top: int
) -> tuple[tuple[Mapping[str, Any], ...], list[str]]:
    left_out: Counter[str] = Counter()
    points: list[Mapping[str, Any]] = []
    front = len(history.directions) > 1
    for trial in (history.winners if front else ranked(history.trials, history.directions[0]))[:top]:
        point = _fitting(spec, trial.params, left_out)
        if point and point not in points and point not in spec.enqueue:
            points.append(point)
    notes = [f"{sentence} ({count} of its points)" for sentence, count in left_out.items()]
    infeasible = sum(trial.state == "complete" and not trial.feasible for trial in history.trials)
    if infeasible:
        notes.append(
            f"{infeasible} of its complete trials break a constraint, so their points are none of these"
        )
    room = None if spec.budget.trials is None else spec.budget.trials - len(spec.enqueue)
    if room is not None and len(points) > room:
        notes.append(f"{len(points) - room} of its points find no place in a budget of {spec.budget.trials}")
        points = points[:room]
    return tuple(points), [f"{len(points)} of the best points of {history.name} are tried first", *notes]


def _fitting(spec: StudySpec, params: Mapping[str, Any], left_out: Counter[str]) -> dict[str, Any]:
    """What of a point the new space holds."""
    point: dict[str, Any] = {}
    for name, value in params.items():
        if name in spec.fixed:
            left_out[f"{name} is left out: it is a fixed value here"] += 1
        elif spec.space and name not in spec.space:
            left_out[f"{name} is left out: it is no parameter here"] += 1
        elif spec.space:
            try:
                point[name] = check_value(spec.space[name], value)
            except PydanticCustomError as error:
                left_out[f"a value of {name} is left out: it {found(error)[1]}"] += 1
        else:
            point[name] = value
    while point:
        try:
            return check_partial_point(spec.space, point)
        except PydanticCustomError as error:
            place, sentence = found(error)
            left_out[f"{dotted(place)} is left out: it {sentence}"] += 1
            del point[place[0]]
    return {}


def _prior(
    spec: StudySpec, theirs: StudySpec, history: StudyHistory
) -> tuple[Mapping[str, Any] | None, list[str]]:
    done = [t for t in history.trials if (t.state == "complete" and t.values) or t.state == "diverged"]
    why = _why_not(spec, theirs, history, done)
    if why is not None:
        return None, [f"its history is not given to the sampler: {why}"]
    taken = done[-MAX_PRIOR:]
    notes = [f"{spec.sampler.name} knows {len(taken)} trials of {history.name} from the start"]
    if len(done) > len(taken):
        notes.append(f"the oldest {len(done) - len(taken)} are left out")
    if theirs.shown_objective != spec.shown_objective:
        notes.append(f"their values come from another objective: {theirs.shown_objective}")
    changed = [n for n in {**spec.fixed, **theirs.fixed} if spec.fixed.get(n) != theirs.fixed.get(n)]
    if changed:
        notes.append(f"their values come from other fixed values: {', '.join(sorted(changed))}")
    stored = [
        {
            "params": {n: v for n, v in t.params.items() if n in spec.space},
            "values": t.values and list(t.values),
            **({"constraints": dict(t.constraints)} if t.constraints else {}),
        }
        for t in taken
    ]
    return {"study": history.name, "trials": stored}, notes


def _why_not(
    spec: StudySpec, theirs: StudySpec, history: StudyHistory, done: Sequence[TrialRecord]
) -> str | None:
    if spec.sampler.name not in LEARNING:
        those = f"{', '.join(LEARNING[:-1])} and {LEARNING[-1]}"
        return f"{spec.sampler.name} does not learn from another study ({those} do)"
    if history.directions != spec.directions:
        return f"it is to {' and '.join(history.directions)}, this one to {' and '.join(spec.directions)}"
    if not spec.space or not theirs.space:
        return "a study without a declared space cannot be compared"
    if differing := _differing(spec, theirs):
        return "the spaces differ: " + "; ".join(differing)
    if not done:
        return f"{history.name} has no complete or diverged trial"
    return None


def _differing(spec: StudySpec, theirs: StudySpec) -> list[str]:
    """`lr: FloatDistribution(...) there, FloatDistribution(...) here`, for every parameter that differs."""
    lines = []
    for name in {**theirs.space, **spec.space}:
        mine, other = spec.space.get(name), theirs.space.get(name)
        if mine is None or other is None:
            lines.append(f"{name} is only {'there' if mine is None else 'here'}")
        elif distribution(mine) != distribution(other):
            lines.append(f"{name}: {distribution(other)} there, {distribution(mine)} here")
        elif mine.when != other.when:
            lines.append(f"{name} exists under another condition there")
    return lines
