"""Why a trial has its parameters: who chose them and what was known then; and the same asked again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpo.text import counted
from storage.database.engine import Database, Transaction
from storage.database.records import StudyRow
from storage.history.attempts import TicketRow, ticket_of
from storage.history.records import TrialRecord

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_NAMES = {
    "random": "Random search",
    "qmc": "The quasi-random sequence",
    "tpe": "TPE",
    "gp": "The Gaussian process",
    "cmaes": "CMA-ES",
    "nsga2": "NSGA-II",
    "nsga3": "NSGA-III",
    "rungs": "The sampler rungs",
    "custom": "The study's own sampler",
}
_SHOWN = 5  # numbers of running trials
ASKED_AGAIN = ("tpe", "gp")  # what else they depend on is no trial's result


def why(connection: Transaction, row: StudyRow, record: TrialRecord) -> str:
    """One or two sentences on how the trial came to its point."""
    ticket = ticket_of(connection, row, record.number)
    if ticket is None:
        if record.foreign or not record.attempts:
            return "hpo did not choose this point: plain Optuna ran the trial, or somebody added it."
        return "Its ticket was tried again since, so what the sampler knew at the first time is not kept."
    if ticket.copies is not None:
        return f"It is a copy of trial {ticket.retry_of}, which was pruned, and goes on from its checkpoint."
    sentences = [_chosen(row, record, ticket)]
    if ticket.retry_of is not None:
        sentences.append(f"The ticket was tried before, as trial {ticket.retry_of}.")
    parked = sum(span.state == "parked" for span in record.spans)
    if promoted := parked - (record.state == "parked"):
        sentences.append(f"It was parked at a rung and promoted {counted(promoted, 'time')}.")
    return " ".join(sentences)


def _chosen(row: StudyRow, record: TrialRecord, ticket: TicketRow) -> str:
    given = [name for name in record.params if name in ticket.point]
    if ticket.is_cell:
        return f"It is cell {ticket.number} of the grid, and depends on no other trial."
    if given and record.asked_by is not None:
        because = f', because: "{record.asked_why}"' if record.asked_why else ", and said no reason"
        what = "it" if len(given) == len(record.params) else ", ".join(given)
        return f"{record.asked_by} proposed {what}{because}."
    if given and len(given) == len(record.params):
        return "Its point was given: enqueued, or named in the study file."
    before = f"Given were {', '.join(given)}; for the rest: " if given else ""
    sampler = row.spec["sampler"]
    name = _NAMES.get(sampler["name"], sampler["name"])
    if sampler["name"] in ("random", "qmc", "grid"):
        ticket_ = f"the study's seed and its ticket, {ticket.number}"
        return f"{before}{name} drew this point from {ticket_}; it depends on no other trial."
    if not ticket.saw:
        return f"{before}{name} drew this point; what it had seen is not kept."
    knew = _seen(ticket.saw) + _still_random(sampler, ticket.saw)
    return f"{before}{name} drew this point after seeing {knew}.{_rated(ticket.saw.get('rated'))}"


def _seen(saw: Mapping[str, Any]) -> str:
    running = saw["running"]
    more = ", ..." if len(running) > _SHOWN else ""
    which = f" ({', '.join(map(str, running[:_SHOWN]))}{more})" if running else ""
    of_them = f", {saw['diverged']} of them diverged," if saw.get("diverged") else ""
    prior = f", and {saw['prior']:,} of another study" if saw.get("prior") else ""
    done = f"{saw['finished']:,} finished"
    done += f" (digest {saw['digest'][:8]})" if saw.get("digest") and saw["finished"] else ""
    return f"{done}{of_them} and {counted(len(running), 'running trial')}{which}{prior}"


def _still_random(sampler: Mapping[str, Any], saw: Mapping[str, Any]) -> str:
    begins = sampler.get("n_startup_trials", 0)
    known = saw["finished"] + saw.get("prior", 0)
    return f": at random, until {counted(begins, 'trial')} have finished" if known < begins else ""


def _rated(rated: Mapping[str, Any] | None) -> str:
    if not rated:
        return ""
    second = ", ".join(
        f"{name}={f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in rated["runner_up"].items()
    )
    return (
        f" It rated it {rated['rating']:.3g} times as likely among the good trials as among the others; the "
        f"runner-up, {second}, {rated['its_rating']:.3g} times."
    )


def asked_again(database: Database, row: StudyRow, record: TrialRecord) -> str | None:
    """What the sampler, asked again with the trials it knew when it chose, draws: "the same" point or
    "another"; or "changed": what is stored of them is not what it knew.

    What had finished by then is what is finished now and neither ran then nor came later: results never
    change, and a study's trials become visible in the order of their numbers. None where that cannot be
    put together: the sampler saw none, learns from more than results, or the objective chose for itself.

    Raises:
        StorageError
    """
    from optuna import Study
    from optuna.trial import TrialState, create_trial

    from hpo.search.prior import prior_trials
    from hpo.search.pruners import promotes
    from hpo.search.samplers import suggest
    from hpo.search.view import StudyView, digest, known_as
    from hpo.spec import StudySpec
    from storage.history.known import KnownTrials
    from storage.queue import studies

    ticket = database.read(ticket_of, row, record.number)
    spec = StudySpec.model_validate(row.spec)
    if ticket is None or not ticket.saw or not spec.space or spec.sampler.name not in ASKED_AGAIN:
        return None
    if promotes(spec):
        return None
    known = KnownTrials(row.optuna_study_id)
    database.read(known.refresh, params=True)
    running = set(ticket.saw["running"])
    last = max([*running, -1 if ticket.saw["newest"] is None else ticket.saw["newest"]])
    seen = [_as_then(trial, running) for trial in known.trials() if trial.number <= last]
    done = [trial for trial in seen if trial.state.is_finished()]
    if len(done) != ticket.saw["finished"]:
        return None
    if ticket.saw.get("digest", "") not in ("", digest(map(known_as, done))):
        return "changed"
    by_id = {trial._trial_id: trial for trial in seen}
    view = StudyView(
        row.name, row.optuna_study_id, row.spec["directions"], lambda: [*seen], by_id.__getitem__
    )
    prior = prior_trials(spec, database.read(studies.prior, row.id))
    asking = create_trial(state=TrialState.RUNNING)
    drawn = suggest(spec, Study(row.name, view), asking, ticket.number, ticket.point, prior)
    return "the same" if drawn == {name: record.params.get(name) for name in drawn} else "another"


def _as_then(trial: FrozenTrial, running: set[int]) -> FrozenTrial:
    """The trial as it was when it ran, with nothing of its end."""
    from optuna.trial import TrialState, create_trial

    if trial.number not in running:
        return trial
    then = create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)
    then.number, then._trial_id = trial.number, trial._trial_id
    return then
