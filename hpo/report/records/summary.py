"""The study in a few facts and sentences, the table of its trials, and the table of several studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median

from pydantic import TypeAdapter, ValidationError

from hpo import text
from hpo.report.records import confirmation
from hpo.report.records.parameters import axes
from hpo.report.records.progress import best_so_far
from hpo.report.records.scores import final_value, origin, ranked, scores, step_name, value_name
from hpo.report.records.training import on_test_set
from hpo.spec.grid import distinct
from hpo.spec.parameters import AnyParameter, Parameter
from storage.history.records import (
    ENDED,
    STATES,
    STEADIER,
    StudyHistory,
    StudyStateName,
    TrialRecord,
    TrialStateName,
    best_of,
    may_win,
    why_no_best,
)

MAX_ROWS = 1000
_SPACE: TypeAdapter[dict[str, AnyParameter]] = TypeAdapter(dict[str, Parameter])


@dataclass(frozen=True)
class Summary:
    """What a person wants to know first. Times in seconds."""

    name: str
    state: str
    sampler: str
    pruner: str
    directions: tuple[str, ...]
    value_names: tuple[str, ...]
    counts: Mapping[TrialStateName, int]  # waiting includes tickets nobody has started
    best: TrialRecord | None  # None for several directions: see the Pareto front
    front: int  # trials on the Pareto front; 0 for one direction
    seconds: float | None  # from the first start to the last end
    busy_seconds: float  # of all trials together
    epochs: int  # reported steps of all trials
    runners: int
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class TrialTable:
    parameters: tuple[str, ...]
    rows: tuple[TrialRecord, ...]  # by number
    best: frozenset[int]  # numbers of the best trial, or of the front
    note: str


@dataclass(frozen=True)
class Measured:
    """A metric and its value."""

    metric: str
    value: float


@dataclass(frozen=True)
class Compared:
    """A study beside others."""

    name: str
    state: StudyStateName
    sampler: str
    pruner: str
    trials: int  # ended
    complete: int
    best: float | None
    best_number: int | None
    found_after_seconds: float | None
    epochs: int
    seconds: float | None
    test: Measured | None  # the objective's metric on the test set


def summarize(history: StudyHistory) -> Summary:
    """The facts of a study, and the same as sentences."""
    mine = [trial for trial in history.trials if not trial.foreign and trial.attempts]
    counts = Counter(trial.state for trial in mine)
    counts["waiting"] += history.waiting
    best = history.best
    partial = Summary(
        name=history.name,
        state=history.state,
        sampler=part_name(history, "sampler"),
        pruner=part_name(history, "pruner"),
        directions=history.directions,
        value_names=tuple(value_name(history, index) for index in range(len(history.directions))),
        counts={state: counts[state] for state in STATES},
        best=best,
        front=len(history.winners) if len(history.directions) > 1 else 0,
        seconds=_wall(history),
        busy_seconds=sum(trial.seconds or 0.0 for trial in history.trials),
        epochs=sum(len(trial.reports) for trial in history.trials),
        runners=len({trial.runner or trial.worker for trial in mine if trial.runner or trial.worker}),
        sentences=(),
    )
    return replace(partial, sentences=tuple(filter(None, _sentences(history, partial))))


def part_name(history: StudyHistory, part: str) -> str:
    """The sampler's or pruner's name in the study file; "none" where it has none."""
    found = history.spec.get(part)
    if isinstance(found, Mapping):
        found = found.get("name")
    return str(found) if found else "none"


def trial_table(history: StudyHistory) -> TrialTable:
    """One row per trial, by number; the best `MAX_ROWS` where there are more."""
    names = tuple(axis.name for axis in axes(history))
    trials = list(history.trials)
    note = ""
    if len(trials) > MAX_ROWS:
        order = [score.trial for score in ranked(scores(history, pruned=False), history.directions[0])]
        listed = {trial.number for trial in order}
        order += [trial for trial in reversed(trials) if trial.number not in listed]
        kept = {trial.number for trial in order[:MAX_ROWS]}
        note = f"The best {MAX_ROWS:,} of {len(trials):,} trials; “hpo export” writes all of them."
        trials = [trial for trial in trials if trial.number in kept]
    best = frozenset(trial.number for trial in history.winners)
    return TrialTable(names, tuple(trials), best, note)


def comparison(histories: tuple[StudyHistory, ...]) -> tuple[Compared, ...]:
    """One row per study, in the given order."""
    return tuple(_compared(history) for history in histories)


def _compared(history: StudyHistory) -> Compared:
    best = best_of(history.trials, history.directions[0])
    facts, seconds = summarize(history), best_so_far(history, "seconds")
    test = on_test_set(history)
    return Compared(
        history.name,
        history.state,
        facts.sampler,
        facts.pruner,
        sum(facts.counts[state] for state in ENDED),
        facts.counts["complete"],
        final_value(best) if best else None,
        best.number if best else None,
        seconds.x[-1] if seconds else None,
        facts.epochs,
        facts.seconds,
        Measured(*test) if test else None,
    )


def _wall(history: StudyHistory) -> float | None:
    start = origin(history)
    end = max((trial.finished for trial in history.trials if trial.finished), default=None)
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


def _sentences(history: StudyHistory, facts: Summary) -> Iterator[str]:
    """Each may be empty, where there is nothing to say."""
    if not history.trials:
        waiting = f" {text.counted(facts.counts['waiting'], 'trial')} waiting." if history.waiting else ""
        yield f"Nothing has run yet.{waiting}"
        return
    yield _result(history, facts)
    yield _counts_sentence(facts)
    if foreign := sum(trial.foreign for trial in history.trials):
        more = text.counted(foreign, "foreign trial")
        yield f"Outside the budget: {more}, run by plain Optuna or added by hand."
    yield _proposals_sentence(history)
    yield _constraints_sentence(history)
    yield _pruning_sentence(history)
    if (found := on_test_set(history)) is not None:
        which = "the best trial" if history.chosen is history.best else "the confirmed winner"
        yield f"On the test set, measured once, {which} has {found[0]} {text.number(found[1])}."
    reasons = Counter(trial.error for trial in history.trials if trial.state == "failed" and trial.error)
    if reasons:
        reason, times = min(reasons.items(), key=lambda item: (-item[1], item[0]))
        yield f"Most frequent reason of failure ({times:,}): {text.label(reason, 160)}"
    yield _exhausted_sentence(history)
    if why := history.spec.get("chosen"):
        yield f"Chosen by hpo: {why}."


def _result(history: StudyHistory, facts: Summary) -> str:
    """Which setting to use, what it is worth and how sure that is; once confirmed, the search's view last."""
    best, sure, found = _best_sentence(history, facts), _how_sure(history, facts), history.confirmation
    if found is None or not history.is_confirmed or found.winner is None:
        return text.joined(best, sure)
    return text.joined(f"Use the setting of trial {found.winner}.", sure, f"In the search: t{best[1:]}")


def _exhausted_sentence(history: StudyHistory) -> str:
    """Whether there is nothing more to try."""
    space, waits = history.spec.get("space"), any(not trial.ended for trial in history.trials)
    if not isinstance(space, Mapping) or history.waiting or waits or part_name(history, "sampler") == "grid":
        return ""
    try:
        settings = distinct(_SPACE.validate_python(space))
    except ValidationError:  # of a version that names it otherwise
        settings = None
    if settings is None:
        return ""
    tried = {repr(sorted(trial.params.items())) for trial in history.trials if trial.state != "failed"}
    if len(tried) < len(settings):
        return ""
    return f"Every one of the {text.counted(len(settings), 'setting')} of its space was tried."


def _best_sentence(history: StudyHistory, facts: Summary) -> str:
    ended = sum(facts.counts[state] for state in ENDED)
    if len(history.directions) > 1:
        if not facts.front and facts.counts["complete"]:
            return f"The study {why_no_best(history)}."
        if not facts.front:
            return "No trial has completed yet."
        complete = text.counted(facts.counts["complete"], "complete trial")
        return f"{text.counted(facts.front, 'trial')} of {complete} make up the Pareto front."
    if facts.best is None:
        if ended and facts.counts["failed"] == ended:
            return f"Every trial failed ({ended:,} of {ended:,}): there is no best trial."
        if ended and facts.counts["diverged"] == ended:
            return f"Every trial diverged ({ended:,} of {ended:,}): there is no best trial. {STEADIER}."
        if facts.counts["complete"]:
            return f"The study {why_no_best(history)}."
        return "No trial has completed yet: there is no best trial."
    value = final_value(facts.best)
    tied = sum(may_win(trial) and trial.values == facts.best.values for trial in history.trials) - 1
    sentence = (
        f"Trial {facts.best.number} is the best of {ended:,}: {facts.value_names[0]} {text.number(value, 5)}"
    )
    if tied:
        sentence += f", tied with {text.counted(tied, 'later trial')}"
    over_seconds = best_so_far(history, "seconds")
    if over_seconds:
        sentence += f", found after {text.duration(over_seconds.x[-1])} of {text.duration(facts.seconds)}"
    return sentence + "."


def _proposals_sentence(history: StudyHistory) -> str:
    """How points that somebody proposed did beside the others, by the best and the median of each."""
    asked = [trial for trial in history.trials if trial.asked_by is not None]
    if not asked or len(history.directions) > 1:
        return ""
    own = [trial for trial in history.trials if trial.asked_by is None and not trial.foreign]
    who = ", ".join(f"{name} {n}" for name, n in Counter(trial.asked_by for trial in asked).most_common(5))
    better = max if history.directions[0] == "maximize" else min

    def reached(trials: list[TrialRecord]) -> str:
        values = [trial.value for trial in trials if may_win(trial) and trial.value is not None]
        if not values:
            return "none completed"
        return f"best {text.number(better(values), 5)}, median {text.number(median(values), 5)}"

    proposed = text.counted(len(asked), "trial was", "trials were")
    return f"{proposed} proposed ({who}): {reached(asked)}; of the other {len(own):,}: {reached(own)}."


def _how_sure(history: StudyHistory, facts: Summary) -> str:
    """Whether the best value is more than luck, as far as anybody has looked."""
    if history.confirmation is not None:
        best = None if history.best is None else history.best.number
        return " ".join(confirmation.sentences(history.confirmation, best, facts.value_names[0]))
    complete = sum(may_win(trial) for trial in history.trials)
    if history.best is None or complete < 2 or history.state not in ("finished", "stopped"):
        return ""
    return (
        f"Nobody has confirmed that: it is the best of {complete:,} values and so partly luck, by how much "
        "hpo confirm says."
    )


def _counts_sentence(facts: Summary) -> str:
    words = {
        "complete": "completed",
        "pruned": "pruned early",
        "failed": "failed",
        "diverged": "diverged",
        "running": "still running",
        "parked": "parked at a rung",
        "waiting": "waiting",
    }
    parts = [f"{facts.counts[state]:,} {words[state]}" for state in STATES if facts.counts[state]]
    total = sum(facts.counts.values())
    on = f" on {text.counted(facts.runners, 'runner')}" if facts.runners else ""
    return f"Of {text.counted(total, 'trial')}{on}, {text.listed(parts)}."


def _constraints_sentence(history: StudyHistory) -> str:
    broken = Counter(name for trial in history.trials if trial.state == "complete" for name in trial.broken)
    complete = [trial for trial in history.trials if trial.state == "complete"]
    count = sum(not trial.feasible for trial in complete)
    if not count or count == len(complete):
        return ""
    names = text.listed([f"{text.label(name)} {times:,}" for name, times in sorted(broken.items())])
    return f"{count:,} of {text.counted(len(complete), 'complete trial')} break a constraint ({names})."


def _pruning_sentence(history: StudyHistory) -> str:
    """How much pruning saved, where complete trials tell how long a full one is."""
    full = max((len(t.reports) for t in history.trials if t.state == "complete"), default=0)
    pruned = [trial for trial in history.trials if trial.state == "pruned"]
    if not pruned or not full:
        return ""
    ended = [trial for trial in history.trials if trial.state in ("complete", "pruned")]
    spent, whole = sum(len(trial.reports) for trial in ended), full * len(ended)
    if spent >= whole:
        return ""
    unit = f"{step_name(history)}s"
    saved = f"{100 * (1 - spent / whole):.0f} %"
    return f"They trained {spent:,} {unit}; in full it would have been {whole:,}, so pruning saved {saved}."
