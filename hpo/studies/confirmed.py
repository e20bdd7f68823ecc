"""What trainings with fresh seeds say of a study's best settings, from its repeats in the database."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from hpo.search import confirming
from hpo.search.confirming import Values
from storage.database.engine import Transaction
from storage.database.records import StudyRow, TicketState
from storage.history.records import Confirmation, Estimate, Setting, TrialRecord
from storage.history.trials import Part, ids_of, read_trials
from storage.queue import repeats, tickets
from storage.queue.repeats import Repeated

_STATES = (
    "ended early",
    "best",
    "tied",
    "dropped",
    "beaten",
)  # of a setting: the first that holds, else open
_SHOWN = ("best", "tied", "beaten", "dropped", "ended early", "open")  # in this order


def of(connection: Transaction, row: StudyRow) -> Confirmation | None:
    """What is known of a study's best settings by now; None where nobody asked."""
    its = repeats.find(connection, row.id)
    found = [] if its is None else repeats.listed(connection, its.id)
    if not found:
        return None
    first = tickets.first_trial(connection, row.id)
    numbers = {one.trial_number for one in found} | ({first} if first is not None else set())
    ids = ids_of(connection, row, numbers)
    trials = read_trials(connection, row, ids.values(), with_=Part.PARAMS).values()
    default = next((trial for trial in trials if trial.number == first), None)
    return judged(found, {trial.number: trial for trial in trials}, default, row.spec["directions"][0])


def judged(
    found: Sequence[Repeated], trials: Mapping[int, TrialRecord], first: TrialRecord | None, direction: str
) -> Confirmation:
    """What these repeats say of their trials; `first`: the study's first."""
    sign = 1.0 if direction == "maximize" else -1.0
    values, out = values_of(found, sign)
    dropped = {one.trial_number for one in found if one.state is TicketState.CANCELLED} | out
    best = confirming.winner(values, dropped)
    ties = set() if best is None else confirming.tied(values, best, out)
    known = confirming.estimates(values, out)
    done = all(one.state.ended for one in found)
    settings = []
    for number in dict.fromkeys(one.trial_number for one in found):
        trial, estimate = trials.get(number), known.get(number)
        reported = None if trial is None else trial.value
        shrinkage = None
        if estimate is not None and reported is not None:
            shrinkage = sign * reported - estimate.mean
        among: tuple[Collection[int | None], ...] = (out, {best}, ties, dropped, known)
        state = next((state for state, own in zip(_STATES, among, strict=True) if number in own), "open")
        is_first = trial is not None and first is not None and trial.params == first.params
        settings.append(Setting(number, reported, _turned(estimate, sign), shrinkage, state, is_first))
    settings.sort(key=lambda one: _rank(one, sign))
    default = next((one for one in settings if one.is_first), None)
    return Confirmation(
        done=done,
        seeds=max((sum(o.seeds for o in found if o.trial_number == s.trial) for s in settings), default=0),
        settings=tuple(settings),
        winner=best,
        tied=tuple(sorted(ties)),
        first_would_do=None if default is None or best is None else default.state in ("best", "tied"),
        trainings=sum(len(one.result or ()) for one in found),
        seconds=sum(one.seconds for one in found),
    )


def values_of(found: Sequence[Repeated], sign: float) -> tuple[Values, set[int]]:
    """Values by trial and seed, larger ones better; and the trials that ended without one with some seed."""
    values: dict[int, dict[tuple[int, int], float]] = {}
    out = set()
    for one in found:
        own = values.setdefault(one.trial_number, {})
        if one.result is None:
            continue
        if not one.result or not all(map(math.isfinite, one.result)):
            out.add(one.trial_number)
            continue
        own.update({(one.seed, place): sign * value for place, value in enumerate(one.result)})
    return values, out


def race(connection: Transaction, its: StudyRow, ending: int) -> None:
    """Drop settings that can no longer win, in the transaction that delivered a repeat.

    When it was the last one, weights are kept of the winner's repeats alone. `ending`: its ticket.
    """
    found = repeats.listed(connection, its.id, ending)
    values, out = values_of(found, 1.0 if its.spec["directions"][0] == "maximize" else -1.0)
    lost = confirming.losers({one: own for one, own in values.items() if one not in out}) | out
    waiting = {one.trial_number for one in found if one.state is TicketState.QUEUED}
    if not waiting - lost and sum(one.state is TicketState.RUNNING for one in found) <= 1:
        cancelled = {one.trial_number for one in found if one.state is TicketState.CANCELLED}
        lost = values.keys() - {confirming.winner(values, lost | cancelled)}
    if lost:
        repeats.drop(connection, its.id, lost)


def _turned(estimate: Estimate | None, sign: float) -> Estimate | None:
    if estimate is None or sign > 0:
        return estimate
    low = None if estimate.high is None else -estimate.high
    high = None if estimate.low is None else -estimate.low
    return Estimate(estimate.trainings, -estimate.mean, -estimate.worst, low, high, estimate.probability)


def _rank(one: Setting, sign: float) -> tuple[int, float, int]:
    mean = 0.0 if one.estimate is None else -sign * one.estimate.mean
    return _SHOWN.index(one.state), mean, one.trial
