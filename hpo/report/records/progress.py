"""How a search went: best so far, history, distribution of values, Pareto front, timeline."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpo.report.records.scores import (
    MAX_POINTS,
    Over,
    best_numbers,
    final_value,
    is_better,
    origin,
    sample,
    scores,
    shown_note,
    step_name,
    thin,
    value_axis,
    value_name,
)
from storage.history.records import ENDED, Direction, StudyHistory, TrialRecord, TrialStateName, may_win

MAX_STEPS = 500  # improvements of one best-so-far line
MAX_BARS = 1500
MAX_LANES = 64
MAX_FRONT = 500
MAX_MACHINES = 12
EDF_POINTS = 200


@dataclass(frozen=True)
class BestSoFar:
    """The best value found, as steps: at `x[i]` it became `value[i]`, and it held until `end`."""

    study: str
    over: Over
    x: tuple[float, ...]  # trial numbers, epochs trained so far, or seconds since the first start
    value: tuple[float, ...]
    end: float
    direction: Direction
    axis: str
    step_name: str


@dataclass(frozen=True)
class HistoryPoint:
    """One trial in the order of numbers; `value` is None for a failed, a diverged and an infinite one."""

    number: int
    value: float | None
    state: TrialStateName
    feasible: bool = True


@dataclass(frozen=True)
class History:
    """Every trial's value, and the best so far over them."""

    points: tuple[HistoryPoint, ...]
    best: BestSoFar | None
    axis: str
    direction: Direction
    note: str


@dataclass(frozen=True)
class Edf:
    """Empirical distribution: `share[i]` of the trials have a value of at most `value[i]`."""

    study: str
    value: tuple[float, ...]
    share: tuple[float, ...]
    axis: str
    direction: Direction


@dataclass(frozen=True)
class ParetoPoint:
    number: int
    values: tuple[float, ...]
    on_front: bool
    feasible: bool = True


@dataclass(frozen=True)
class Pareto:
    """Complete trials of a study with several directions; the front holds what nothing else dominates."""

    points: tuple[ParetoPoint, ...]
    names: tuple[str, ...]
    axes: tuple[str, ...]
    directions: tuple[Direction, ...]
    note: str

    @property
    def front(self) -> tuple[ParetoPoint, ...]:
        return tuple(point for point in self.points if point.on_front)


@dataclass(frozen=True)
class Bar:
    """One attempt on its runner's lane, in seconds since the study's first start."""

    number: int  # of its trial
    lane: str
    start: float
    end: float
    state: str  # the attempt's
    attempt: int


@dataclass(frozen=True)
class Timeline:
    bars: tuple[Bar, ...]
    lanes: tuple[str, ...]  # in natural order
    note: str


@dataclass(frozen=True)
class Load:
    """One meter of one worker's machine over time."""

    worker: str
    what: str  # "runners", "processors", "memory", "GPU 0", "GPU 0 memory"
    seconds: tuple[float, ...]  # since the study's, or the trial's, first start
    shares: tuple[float, ...]  # of 100


@dataclass(frozen=True)
class Machines:
    """How busy the machines were; `idle`: seconds that their runners together had nothing to do."""

    loads: tuple[Load, ...]
    since: str  # what began at 0
    idle: float | None
    idle_share: float  # of the runners' time, 0 to 1
    note: str


def best_so_far(history: StudyHistory, over: Over = "trials", objective: int = 0) -> BestSoFar | None:
    """The best feasible value over trial numbers, over epochs of all trials together, or over wall seconds.

    Over epochs and seconds, trials count when they end. None where no trial completed, where nothing was
    reported (epochs), or where times are missing (seconds).
    """
    direction = history.directions[objective]
    steps: list[tuple[float, float]] = []
    best: float | None = None
    end = 0.0
    for position, trial in _ended(history, over):
        end = max(end, position)
        value = final_value(trial, objective)
        if value is not None and trial.feasible and is_better(value, best, direction):
            best = value
            steps.append((position, value))
    if best is None:
        return None
    x, values = zip(*thin(steps, MAX_STEPS), strict=True)
    axis = value_axis(history, objective)
    return BestSoFar(history.name, over, x, values, end, direction, axis, step_name(history))


def _ended(history: StudyHistory, over: Over) -> list[tuple[float, TrialRecord]]:
    """Ended trials with their place on the axis, in its order."""
    ended = [trial for trial in history.trials if trial.state in ENDED]
    if over == "trials":
        return [(float(trial.number), trial) for trial in ended]
    start = origin(history)
    timed = [t for t in ended if t.finished is not None]
    timed.sort(key=lambda t: (t.finished, t.number))
    if over == "seconds":
        if start is None:
            return []
        return [((t.finished - start).total_seconds(), t) for t in timed if t.finished is not None]
    if not any(trial.reports for trial in ended):
        return []
    placed, epochs = [], 0
    for trial in timed if len(timed) == len(ended) else ended:
        epochs += len(trial.reports)
        placed.append((float(epochs), trial))
    return placed


def optimization_history(history: StudyHistory, objective: int = 0) -> History:
    """Every ended trial's value (a pruned one's last report) with the best so far."""
    direction = history.directions[objective]
    points: list[HistoryPoint] = []
    for trial in history.trials:
        if trial.state == "complete":
            value = final_value(trial, objective)
            points.append(HistoryPoint(trial.number, value, "complete", trial.feasible))
        elif trial.state == "pruned" and len(history.directions) == 1:
            points.append(HistoryPoint(trial.number, trial.last_report, "pruned", trial.feasible))
        elif trial.state in ("failed", "diverged"):
            points.append(HistoryPoint(trial.number, None, trial.state))
    best = best_so_far(history, "trials", objective)
    improved = {*(best.x if best else ()), *best_numbers(history, objective)}
    shown = sample(points, MAX_POINTS, lambda point: point.number in improved)
    return History(
        shown, best, value_axis(history, objective), direction, shown_note(len(shown), len(points))
    )


def edf(history: StudyHistory, objective: int = 0) -> Edf | None:
    """Share of trials at or below each value; pruned ones count with their last report."""
    values = sorted(score.value for score in scores(history, objective))
    if not values:
        return None
    steps = [(value, (index + 1) / len(values)) for index, value in enumerate(values)]
    value, share = zip(*thin(steps, EDF_POINTS), strict=True)
    direction = history.directions[objective]
    return Edf(history.name, value, share, value_axis(history, objective), direction)


def pareto(history: StudyHistory) -> Pareto | None:
    """The complete trials of a study with several directions, and which are on the front.

    A feasible trial is on the front when no other is at least as good in every direction and better in one.
    None for one direction or no complete trial with finite values.
    """
    if len(history.directions) < 2:
        return None
    count = len(history.directions)
    found: list[ParetoPoint] = []
    members = {trial.number for trial in history.winners}
    for trial in history.trials:
        values = [final_value(trial, index) for index in range(count)]
        finite = tuple(value for value in values if value is not None)
        if len(finite) == count:
            found.append(ParetoPoint(trial.number, finite, trial.number in members, trial.feasible))
    if not found:
        return None
    front = sample([p for p in found if p.on_front], MAX_FRONT)
    rest = sample([p for p in found if not p.on_front], MAX_POINTS)
    indices = range(count)
    return Pareto(
        tuple(sorted((*front, *rest), key=lambda p: p.number)),
        tuple(value_name(history, i) for i in indices),
        tuple(value_axis(history, i) for i in indices),
        history.directions,
        shown_note(len(front) + len(rest), len(found)),
    )


def hypervolume(history: StudyHistory) -> BestSoFar | None:
    """The area that the front so far dominates, up to the worst value of each of two directions, over trials.

    None for another number of directions, or without a feasible complete trial.
    """
    done = [trial for trial in history.trials if may_win(trial)]
    if len(history.directions) != 2 or not done:
        return None
    signs = [1.0 if direction == "maximize" else -1.0 for direction in history.directions]
    points = [[sign * v for sign, v in zip(signs, t.values or (), strict=True)] for t in done]
    worst_a, worst_b = (min(axis) for axis in zip(*points, strict=True))
    front: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []
    for trial, (a, b) in zip(done, points, strict=True):
        if any(other_a >= a and other_b >= b for other_a, other_b in front):
            continue
        front = sorted([*(p for p in front if not (a >= p[0] and b >= p[1])), (a, b)])
        widths = [
            a - before for (a, _), before in zip(front, [worst_a, *(a for a, _ in front)], strict=False)
        ]
        area = sum(width * (b - worst_b) for width, (_, b) in zip(widths, front, strict=True))
        steps.append((float(trial.number), area))
    x, values = zip(*thin(steps, MAX_STEPS), strict=True)
    axis, end = "hypervolume (higher is better)", float(history.trials[-1].number)
    return BestSoFar(history.name, "trials", x, values, end, "maximize", axis, step_name(history))


def timeline(history: StudyHistory) -> Timeline | None:
    """Which runner was busy with which trial when, attempt by attempt; a running one ends at the latest
    time known.
    """
    start = origin(history)
    spans = [(trial.number, span) for trial in history.trials for span in trial.spans]
    if start is None or not spans:
        return None
    latest = max(span.ended or span.started for _, span in spans)
    bars = []
    for number, span in spans:
        begin, end = (span.started - start).total_seconds(), ((span.ended or latest) - start).total_seconds()
        bars.append(Bar(number, span.lane, begin, max(begin, end), span.state, span.number))
    bars.sort(key=lambda bar: (bar.start, bar.number))
    lanes = sorted({bar.lane for bar in bars}, key=_natural)
    kept = lanes[:MAX_LANES]
    shown = [bar for bar in bars if bar.lane in set(kept)][-MAX_BARS:]
    note = "" if len(shown) == len(bars) else f"The latest {len(shown):,} of {len(bars):,} attempts shown."
    return Timeline(tuple(shown), tuple(kept), note)


def machines(history: StudyHistory, trial: TrialRecord | None = None) -> Machines | None:
    """How busy machines were from the first trial on to the end of the last; or only at one `trial`.

    None where no machine was sampled twice then.
    """
    trials = history.trials if trial is None else (trial,)
    spans = [span for one in trials for span in one.spans]
    if not spans or not history.machines:
        return None
    start = min(span.started for span in spans)
    end = (
        None if any(span.ended is None for span in spans) else max(span.ended for span in spans if span.ended)
    )
    at_it = {span.lane.rpartition("/")[0] for span in spans}
    found, spent, idle, workers = [], 0.0, 0.0, 0
    for machine in history.machines:
        inside = [i for i, t in enumerate(machine.times) if t >= start and (end is None or t <= end)]
        if not inside or (trial is not None and machine.worker not in at_it):
            continue
        workers += 1
        seconds = tuple((machine.times[i] - start).total_seconds() for i in inside)
        if workers <= MAX_MACHINES:
            found += [
                Load(machine.worker, what, seconds, tuple(shares[i] for i in inside))
                for what, shares in machine.shares.items()
            ]
        begun = max(machine.started, start)
        for i, before in zip(inside, (begun, *(machine.times[i] for i in inside)), strict=False):
            length = machine.runners * max(0.0, (machine.times[i] - before).total_seconds())
            spent += length
            idle += length * (1 - machine.shares["runners"][i] / 100) if "runners" in machine.shares else 0.0
    if max((len(load.seconds) for load in found), default=0) < 2:
        return None
    return Machines(
        tuple(found),
        "the first trial started" if trial is None else "the trial started",
        idle if trial is None else None,
        idle / spent if spent else 0.0,
        shown_note(min(workers, MAX_MACHINES), workers, "workers"),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts "gpu-2" before "gpu-10"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
