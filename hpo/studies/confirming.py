"""Confirm a study's result: have the best settings, and the first one, trained again with fresh seeds.

What is trained are repeats (`storage.queue.repeats`); what they say, `hpo.studies.confirmed` computes.
"""

from __future__ import annotations

from hpo.errors import UserError
from hpo.search.draws import repeat_seed
from hpo.spec import StudySpec
from hpo.spec.sections import Confirm
from hpo.studies import reading
from hpo.studies.steering import note
from storage.database.engine import Database, Transaction
from storage.database.records import Repeat, StudyRow, TicketState
from storage.history.records import StudyHistory, TrialRecord, ranked, why_no_best
from storage.history.trials import ids_of
from storage.queue import repeats

SIDE_BY_SIDE = (4, 6)  # seeds that our own objectives train at once: enough for a first look, then more
_LANES = ("objectives.classifier", "objectives.regressor")


def ask(database: Database, row: StudyRow, *, top: int | None = None, seeds: int | None = None) -> StudyRow:
    """Queue what has to be trained: the `top` best settings and the first, each with so many fresh seeds.

    None is what the study file says, or its default. What is queued or done already counts, and what was
    dropped stays so. Returns the row that workers serve.

    Raises:
        UserError: the study runs still, has several directions, or no result to confirm.
    """
    if not row.state.ended:
        raise UserError(f"{row.name} is {row.state}: a result is confirmed when the search has ended")
    if len(row.spec["directions"]) > 1:
        raise UserError("a study with several directions has no single winner to confirm")
    history = reading.history(database, row.name, evaluated=False)
    if history.best is None:
        raise UserError(f"{row.name} {why_no_best(history)}; so there is nothing to confirm")
    spec = StudySpec.model_validate(row.spec)
    asked = spec.confirm or Confirm()
    top, seeds = asked.top if top is None else top, asked.seeds if seeds is None else seeds
    chosen = candidates(history, top, first=not asked.in_budget)
    at_once = _at_once(spec)

    def verb(connection: Transaction) -> StudyRow:
        its = repeats.find(connection, row.id)
        there = [] if its is None else repeats.listed(connection, its.id)
        ids = ids_of(connection, row, [trial.number for trial in chosen])
        wanted = []
        for trial in chosen:
            own = [one for one in there if one.trial_number == trial.number]
            sizes = [one.seeds for one in own]
            while sum(sizes) < seeds and all(one.state is not TicketState.CANCELLED for one in own):
                again = Repeat(
                    ids[trial.number],
                    trial.number,
                    repeat_seed(row.seed, len(sizes)),
                    min(at_once[bool(sizes)], seeds - sum(sizes)),
                )
                wanted.append((len(sizes), again, trial.params))
                sizes.append(again.seeds)
        wanted.sort(key=lambda one: one[0])  # a round of all, then the next
        if wanted:
            note(connection, database, row, "confirm", top=top, seeds=seeds)
        rows = [(again, params) for _, again, params in wanted]
        return repeats.add(connection, row.id, rows)

    return database.write_once(verb)


def open_(database: Database, row: StudyRow) -> StudyRow | None:
    """The row that workers serve while trials of a study are trained again; None when none are."""
    return database.read(repeats.going, row.id)


def go_on(database: Database, name: str) -> StudyRow | None:
    """What workers of a study serve when its search has ended: its repeats, which are asked for here where
    its study file has `confirm`. None where there is nothing to train.
    """
    row = reading.get_study(database, name)
    if not row.state.ended:
        return None
    if row.spec.get("confirm"):
        history = reading.history(database, name, evaluated=False)
        if history.best is not None and not history.is_confirmed:
            ask(database, row)
    return open_(database, row)


def candidates(history: StudyHistory, top: int, *, first: bool = True) -> list[TrialRecord]:
    """The best trials, no setting twice, the best first; and the `first` one."""
    found: list[TrialRecord] = []
    for trial in ranked(history.trials, history.directions[0]):
        if len(found) < top and all(trial.params != other.params for other in found):
            found.append(trial)
    trials = [trial for trial in history.trials if not trial.foreign] if first else []
    one = min(trials, key=lambda trial: (trial.ticket, trial.number), default=None)
    usable = one is not None and one.state not in ("failed", "diverged")
    if one is not None and usable and all(one.params != other.params for other in found):
        found.append(one)
    return found


def _at_once(spec: StudySpec) -> tuple[int, int]:
    """Seeds that a first and a later repeat train: several where the objective trains them as lanes."""
    named = (spec.objective or "").partition(":")[0]
    own = {"seeds", "folds"} & {*spec.fixed, *spec.space}
    return SIDE_BY_SIDE if named in _LANES and not own and spec.trial_timeout is None else (1, 1)
