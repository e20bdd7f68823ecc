"""Parameters against values: slices, parallel coordinates, the contour of two, and the way to the winner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hpo import text
from hpo.report.records import surrogate
from hpo.report.records.parameters import NOISE, Axis, axes, most_important, placed
from hpo.report.records.scores import (
    KEPT,
    Score,
    best_first,
    best_numbers,
    ranked,
    sample,
    scores,
    shown_note,
    thin,
    value_axis,
)
from storage.history.records import Direction, StudyHistory, TrialRecord, best_of

MAX_SLICE_POINTS = 300
MAX_LINES = 250  # the best among them
MAX_PARALLEL_AXES = 12
MAX_SLICES = 24
MIN_BOXED = 5  # complete trials of a choice that have a box
GRID = 32  # cells along a numeric axis of the contour
MIN_CONTOUR_TRIALS = 8
MIN_SURVIVORS = 12  # complete trials that make a surface without the pruned ones
_UNUSED = object()
Rank = Literal["best", "top", "upper", "rest", "pruned"]


@dataclass(frozen=True)
class SlicePoint:
    number: int
    x: float  # position on the axis
    value: float
    pruned: bool
    best: bool
    feasible: bool = True


@dataclass(frozen=True)
class Slice:
    """One parameter against the value."""

    parameter: Axis
    points: tuple[SlicePoint, ...]
    axis: str
    direction: Direction
    note: str
    # Of choices: the position, and 5, 25, 50, 75 and 95 % of the values of its complete trials.
    boxes: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class ParallelLine:
    """One trial: its place between 0 and 1 on each axis, None where the parameter was not active."""

    number: int
    units: tuple[float | None, ...]
    value: float
    rank: Rank


@dataclass(frozen=True)
class Parallel:
    parameters: tuple[Axis, ...]
    lines: tuple[ParallelLine, ...]  # worst first, so that the best is drawn last
    low: float  # ends of the value axis
    high: float
    axis: str
    direction: Direction
    note: str


@dataclass(frozen=True)
class Contour:
    """A smoothed surface of the value over two parameters, None where no trial is near."""

    x: Axis
    y: Axis
    grid_x: tuple[float, ...]
    grid_y: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]  # values[row of y][column of x]
    points: tuple[tuple[int, float, float, float], ...]  # number, x, y, value
    axis: str
    direction: Direction
    note: str


@dataclass(frozen=True)
class Step:
    """One change on the way to the winner, and what the model expects after it."""

    change: str  # "lr 0.1 → 0.003"
    value: float
    gain: float  # by this change; above 0 is better
    spread: float  # of the gain, half its 90 % interval

    @property
    def said(self) -> str:
        """The gain as a person reads it."""
        if not self.spread:
            return "the start"
        said = f"{text.number(self.gain, 2)} ± {text.number(self.spread, 2)}"
        return said if abs(self.gain) > self.spread else f"{said}, {NOISE}"


@dataclass(frozen=True)
class Path:
    """From the first setting to the winner, one parameter at a time."""

    steps: tuple[Step, ...]  # the first is the start itself
    axis: str
    note: str


def slices(history: StudyHistory, objective: int = 0, picked: str = "") -> tuple[Slice, ...]:
    """One slice per varied parameter, most important first, or the `picked` one's alone; pruned trials with
    their last report, marked.
    """
    found = scores(history, objective)
    winner = best_of(history.trials, history.directions[objective], objective)
    best = None if winner is None else winner.number
    by_name = {axis.name: axis for axis in axes(history) if not axis.single}
    kept = best_numbers(history, objective)
    shown = sample(found, MAX_SLICE_POINTS, lambda score: score.number in kept)
    direction, value = history.directions[objective], value_axis(history, objective)
    made = []
    names = most_important(history, objective)[:MAX_SLICES] if not picked else {picked} & by_name.keys()
    for name in names:
        axis = by_name[name]
        using, some = found, shown
        if axis.active < len(history.trials):
            using = tuple(score for score in found if name in score.trial.params)
            some = sample(using, MAX_SLICE_POINTS, lambda score: score.number in kept)
        points = tuple(
            SlicePoint(score.number, x, score.value, score.pruned, score.number == best, score.trial.feasible)
            for score, x in _at(axis, some)
        )
        if points:
            note = shown_note(len(points), len(using)) if len(using) > MAX_SLICE_POINTS else ""
            boxes = _boxes(_at(axis, using)) if axis.kind == "categorical" else ()
            made.append(Slice(axis, points, value, direction, note, boxes))
    return tuple(made)


def _at(axis: Axis, using: Iterable[Score]) -> list[tuple[Score, float]]:
    """Those that have a place on the axis, with it."""
    at = ((score, axis.position(score.trial.params[axis.name])) for score in using)
    return [(score, x) for score, x in at if x is not None]


def _boxes(known: Sequence[tuple[Score, float]]) -> tuple[tuple[float, ...], ...]:
    values: dict[float, list[float]] = {}
    for score, x in known:
        if score.trial.feasible and not score.pruned:
            values.setdefault(x, []).append(score.value)
    return tuple(
        (x, *map(float, np.percentile(found, (5, 25, 50, 75, 95))))
        for x, found in sorted(values.items())
        if len(found) >= MIN_BOXED
    )


def parallel(history: StudyHistory, objective: int = 0) -> Parallel | None:
    """Every scored trial as a line over the most important parameters; None without a trial or a parameter.

    Ranks: the best trial, the best tenth, the best third, the rest, and pruned trials (their last report).
    """
    direction = history.directions[objective]
    found = scores(history, objective)
    names = most_important(history, objective)
    by_name = {axis.name: axis for axis in axes(history)}
    chosen = tuple(by_name[name] for name in names[:MAX_PARALLEL_AXES])
    if not found or not chosen:
        return None
    ranking = best_first(history, objective)
    order = [score for score in ranking if not score.pruned]
    ranks: dict[int, Rank] = {score.number: "pruned" for score in found if score.pruned}
    for place, score in enumerate(order):
        share = (place + 1) / len(order)
        among: Rank = "top" if share <= 0.1 else "upper" if share <= 1 / 3 else "rest"
        feasible: Rank = "best" if place == 0 else among
        ranks[score.number] = feasible if score.trial.feasible else "rest"
    kept = best_numbers(history, objective)
    shown = ranking[::-1]
    if len(shown) > MAX_LINES:
        shown = thin(shown, MAX_LINES - len(kept), lambda score: score.number in kept)
    lines = tuple(
        ParallelLine(
            score.number,
            tuple(
                axis.unit(score.trial.params[axis.name]) if axis.name in score.trial.params else None
                for axis in chosen
            ),
            score.value,
            ranks[score.number],
        )
        for score in shown
    )
    low, high = window([score.value for score in found], direction)
    note = shown_note(len(shown), len(found), how=f"the best {KEPT} and others evenly over their ranks")
    if len(names) > len(chosen):
        note = text.joined(note, f"The {len(chosen)} most important of {len(names)} parameters.")
    return Parallel(chosen, lines, low, high, value_axis(history, objective), direction, note)


def contour(history: StudyHistory, objective: int = 0, pair: tuple[str, str] = ("", "")) -> Contour | None:
    """The value over two parameters ("": the most important that were active together), smoothed.

    Nadaraya-Watson regression with a Gaussian kernel on the unit square, at most `GRID` x `GRID` cells;
    cells farther than two bandwidths from every trial stay empty. Pruned trials (their last report) only
    count where fewer than `MIN_SURVIVORS` completed. None with fewer than `MIN_CONTOUR_TRIALS` trials
    that have both parameters.
    """
    by_name = {axis.name: axis for axis in axes(history) if not axis.single}
    found = scores(history, objective, pruned=False)
    if len(found) < MIN_SURVIVORS:
        found = scores(history, objective)
    order = [name for name in most_important(history, objective) if name in by_name] if not all(pair) else []
    names = pair if any(pair) else _pair(found, order) or pair
    one, other = (name or next((name for name in order if name not in names), "") for name in names)
    if one == other or not {one, other} <= by_name.keys():
        return None
    x, y = by_name[one], by_name[other]
    known = []
    for score in found:
        params = score.trial.params
        if x.name in params and y.name in params:
            ux, uy = x.unit(params[x.name]), y.unit(params[y.name])
            if ux is not None and uy is not None:
                known.append((score, ux, uy))
    if len(known) < MIN_CONTOUR_TRIALS:
        return None
    direction = history.directions[objective]
    low, high = window([score.value for score, _, _ in known], direction)
    grid_x, grid_y = _grid(x), _grid(y)
    surface = _smooth(
        np.array([[ux, uy] for _, ux, uy in known]),
        np.clip(np.array([score.value for score, _, _ in known]), low, high),
        (grid_x, grid_y),
        (x.kind == "categorical", y.kind == "categorical"),
    )
    kept = best_numbers(history, objective)
    shown = sample(known, MAX_SLICE_POINTS, lambda one: one[0].number in kept)
    points = [(score.number, x.at(ux), y.at(uy), score.value) for score, ux, uy in shown]
    return Contour(
        x,
        y,
        tuple(x.at(unit) for unit in grid_x),
        tuple(y.at(unit) for unit in grid_y),
        surface,
        tuple(points),
        value_axis(history, objective),
        direction,
        text.joined(
            "" if any(score.pruned for score, _, _ in known) else "Complete trials only.",
            shown_note(len(points), len(known)),
        ),
    )


def path(history: StudyHistory, objective: int = 0) -> Path | None:
    """The ablation path from the first setting (an enqueued one comes first) to the best trial.

    Of all parameters in which they differ the one is changed next that the model of all trials expects most
    of (Fawcett and Hoos, Journal of Heuristics 2016; on a model: Biedenkapp et al., AAAI 2017). What only one
    of both settings uses is changed with what its use depends on. Nothing is trained for it: the model's
    estimates. None with fewer than `MIN_CONTOUR_TRIALS` trials, or when the first setting is the best.
    """
    direction = history.directions[objective]
    best = best_of(history.trials, direction, objective)
    first = next((trial for trial in history.trials if trial.params and not trial.foreign), None)
    found = scores(history, objective, pruned=False)
    if len(found) < MIN_SURVIVORS:
        found = scores(history, objective)
    varied = [axis for axis in axes(history) if not axis.single]
    changes = _changes(history, first, best) if first and best and first is not best else []
    if first is None or best is None or not changes or not varied or len(found) < MIN_CONTOUR_TRIALS:
        return None
    order = ranked(found, direction)
    used = thin(order, surrogate.MAX_TRIALS)
    values = np.clip([score.value for score in used], *window([score.value for score in found], direction))
    mean, unit = float(values.mean()), float(values.std())
    if unit == 0:
        return None
    columns = [placed(axis, (score.trial.params for score in used)) for axis in varied]
    model = surrogate.fitted(columns, [axis.kind == "categorical" for axis in varied], values.tolist())
    sign = 1.0 if direction == "maximize" else -1.0

    def expected(points: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        return model.predicted(np.array([placed(axis, points) for axis in varied]))

    now: dict[str, Any] = dict(first.params)
    steps = [Step(f"trial {first.number}", mean + unit * float(expected([now])[0][0]), 0.0, 0.0)]
    while changes:
        after = [_changed(now, names, best.params) for names in changes]
        means, covariance = expected([now, *after])
        chosen = int(np.argmax(sign * means[1:])) + 1
        variance = covariance[0, 0] + covariance[chosen, chosen] - 2 * covariance[0, chosen]
        gain, spread = sign * unit * (means[chosen] - means[0]), 1.645 * unit * math.sqrt(max(variance, 0.0))
        names = changes.pop(chosen - 1)
        words = "; ".join(_change(name, now, best.params) for name in names)
        steps.append(Step(words, mean + unit * float(means[chosen]), float(gain), max(float(spread), 1e-12)))
        now = after[chosen - 1]
    told = f"From trial {first.number}, the first, to trial {best.number}; estimates of a model of"
    return Path(tuple(steps), value_axis(history, objective), f"{told} {text.counted(len(used), 'trial')}.")


def _changes(history: StudyHistory, first: TrialRecord, best: TrialRecord) -> list[list[str]]:
    """Names in which both settings differ, those together that only make sense together."""
    differing = [
        name
        for name in dict.fromkeys([*first.params, *best.params])
        if first.params.get(name, _UNUSED) != best.params.get(name, _UNUSED)
    ]
    space = history.spec.get("space") or {}
    groups: dict[str, list[str]] = {}
    for name in differing:
        parents = space.get(name, {}).get("when") or {}
        both = name in first.params and name in best.params
        lead = name if both else next((parent for parent in parents if parent in differing), name)
        groups.setdefault(lead, []).append(name)
    return [sorted(names, key=lambda name: (name != lead, name)) for lead, names in groups.items()]


def _changed(now: Mapping[str, Any], names: Sequence[str], goal: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in now.items() if name not in names}
    return kept | {name: goal[name] for name in names if name in goal}


def _change(name: str, now: Mapping[str, Any], goal: Mapping[str, Any]) -> str:
    before, after = (text.value(p[name]) if name in p else "unused" for p in (now, goal))
    return f"{name} {before} → {after}"


def window(values: Sequence[float], direction: Direction) -> tuple[float, float]:
    """The range worth drawing: all of it, unless a few bad values would flatten the rest.

    The good end is always inside. The bad end is cut three times as far out as the good half of the values
    reaches (where that is one value: half as far again as 95 % of them), when the worst lies more than ten
    times as far out as they.
    """
    low, high = min(values), max(values)
    good = high if direction == "maximize" else low
    ordered = sorted(values, key=lambda value: abs(value - good))
    for share, times in ((0.5, 3.0), (0.95, 1.5)):
        reach = abs(ordered[math.ceil(share * len(ordered)) - 1] - good)
        if not 0 < 10 * reach < abs(ordered[-1] - good):
            continue
        cut = times * reach
        return (good - cut, good) if direction == "maximize" else (good, good + cut)
    return low, high


def _pair(found: tuple[Score, ...], names: list[str]) -> tuple[str, str] | None:
    """The first two names, by importance, that enough trials used together."""
    for second in range(1, len(names)):
        for first in range(second):
            together = sum(
                names[first] in score.trial.params and names[second] in score.trial.params for score in found
            )
            if together >= MIN_CONTOUR_TRIALS:
                return names[first], names[second]
    return None


def _grid(axis: Axis) -> list[float]:
    cells = len(axis.choices) if axis.kind == "categorical" else GRID
    return [index / (cells - 1) for index in range(cells)]


def _smooth(
    places: np.ndarray[tuple[int, int], np.dtype[np.float64]],  # N x 2, between 0 and 1
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    grids: tuple[list[float], list[float]],
    categorical: tuple[bool, bool],
) -> tuple[tuple[float | None, ...], ...]:
    """Rows of y, columns of x. A categorical axis is never smoothed across its choices."""
    width = max(0.05, min(0.12, 0.3 * len(values) ** -0.25))
    widths = [1e-3 if is_categorical else width for is_categorical in categorical]
    squared_x = ((np.array(grids[0])[:, None] - places[None, :, 0]) / widths[0]) ** 2  # X x N
    squared_y = ((np.array(grids[1])[:, None] - places[None, :, 1]) / widths[1]) ** 2  # Y x N
    nearest = np.array([(squared_x + row).min(axis=1) for row in squared_y])  # Y x X
    weights_x, weights_y = np.exp(-0.5 * squared_x), np.exp(-0.5 * squared_y)  # of a cell: their product
    mean = (weights_y * values) @ weights_x.T / np.maximum(weights_y @ weights_x.T, 1e-300)
    return tuple(
        tuple(float(v) if near <= 4.0 else None for v, near in zip(row, nears, strict=True))
        for row, nears in zip(mean, nearest, strict=True)
    )
