"""What pruning cost: a sample of the trials that were pruned is run to its end after all.

The sample is the first of the pruned in an order that their tickets' numbers alone decide
(`draws.in_sample`), so it is fair. What is run are repeats (`storage.queue.repeats`), with the seeds that
their trials had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpo.errors import UserError
from hpo.search.draws import in_sample, training_seed
from hpo.spec import StudySpec
from hpo.studies import reading
from hpo.studies.steering import note
from storage.database.engine import Database, Transaction
from storage.database.records import Repeat, StudyRow
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore
from storage.history.records import TrialRecord, ranked
from storage.history.trials import ids_of
from storage.queue import repeats

SURE = 0.9  # of the interval


@dataclass(frozen=True)
class Continued:
    """One pruned trial that was run to its end."""

    trial: int
    epochs: int  # when it was pruned
    reported: float | None  # the last it reported then
    value: float | None  # in the end; None: it came to none
    among: bool  # it would have been among the best


@dataclass(frozen=True)
class Regret:
    """How often pruning threw away a trial that would have been among the best, and what it saved."""

    done: bool  # nothing of the sample waits or runs
    pruned: int  # trials of the study
    top: int  # "among the best": as good as this one of those that completed, counted from the best
    trials: tuple[Continued, ...]  # of the sample, those that are done, by number
    missed: int  # of them, those that would have been among the best
    low: float  # nine times in ten the share of all that were pruned lies between these
    high: float
    best: float  # of the study
    best_missed: float | None  # of the sample
    saved_epochs: float  # by all that were pruned, had each trained as long as those that completed
    saved_seconds: float
    trained_epochs: int  # by the study


def ask(database: Database, row: StudyRow, sample: int) -> StudyRow:
    """Queue the first of the pruned trials, where they are not yet; returns the row that workers serve.

    One whose checkpoint was kept goes on from it; another trains from the beginning, with the same seed.

    Raises:
        UserError: the study runs still, or pruned nothing.
    """
    if not row.state.ended:
        raise UserError(f"{row.name} is {row.state}: what its pruner cost is measured when it has ended")
    if len(row.spec["directions"]) > 1:
        raise UserError(f"{row.name} has several directions, of which no trial is the best one missed")
    history = reading.history(database, row.name, evaluated=False)
    pruned = _in_order(row, history.trials)
    if not pruned:
        raise UserError(f"{row.name} has pruned no trial, so there is nothing to regret")
    store = ArtifactStore(row.artifacts)
    chosen = pruned[:sample]
    folders = [checkpoints.trial_key(row.uid, row.first_name, one.number) for one in chosen]
    steps = [checkpoints.last_step(store, folder) for folder in folders]

    def verb(connection: Transaction) -> StudyRow:
        ids = ids_of(connection, row, [one.number for one in chosen])
        wanted = [
            (
                Repeat(ids[one.number], one.number, training_seed(row.seed, one.ticket), from_epoch=step),
                one.params,
            )
            for one, step in zip(chosen, steps, strict=True)
        ]
        its = repeats.add(connection, row.id, wanted, repeats.REGRET)
        if not its.state.ended:
            note(connection, database, row, "regret", trials=len(chosen))
        return its

    return database.write_once(verb)


def of(database: Database, row: StudyRow, top: int) -> Regret:
    """What is known by now.

    Raises:
        UserError: nobody asked, or no trial completed with which to compare.
    """
    history = reading.history(database, row.name, evaluated=False)
    its = database.read(repeats.find, row.id, repeats.REGRET)
    found = [] if its is None else database.read(repeats.listed, its.id)
    sign = 1.0 if history.directions[0] == "maximize" else -1.0
    done = [sign * (trial.value or 0.0) for trial in ranked(history.trials, history.directions[0])]
    if not found or not done:
        raise UserError(f"{row.name} has no completed trial with which to compare")
    bar, pruned = done[min(top, len(done)) - 1], _in_order(row, history.trials)
    by_number = {trial.number: trial for trial in pruned}
    trials = []
    for one in sorted(found, key=lambda one: one.trial_number):
        trial = by_number.get(one.trial_number)
        if trial is None or one.result is None:
            continue
        value = one.result[0] if one.result and math.isfinite(one.result[0]) else None
        among = value is not None and sign * value >= bar
        trials.append(Continued(trial.number, trial.steps, trial.last_report, value, among))
    missed, ends = sum(one.among for one in trials), [one.value for one in trials if one.value is not None]
    low, high = share(missed, len(trials), len(pruned))
    full = [trial.steps for trial in history.trials if trial.state == "complete"]
    saved = [(max(0.0, sum(full) / len(full) - one.steps), one) for one in pruned]
    return Regret(
        done=all(one.state.ended for one in found),
        pruned=len(pruned),
        top=top,
        trials=tuple(trials),
        missed=missed,
        low=low,
        high=high,
        best=sign * done[0],
        best_missed=max(ends, key=lambda value: sign * value, default=None),
        saved_epochs=sum(epochs for epochs, _ in saved),
        saved_seconds=sum(e * (one.seconds or 0.0) / one.steps for e, one in saved if one.steps),
        trained_epochs=sum(trial.steps for trial in history.trials),
    )


def share(hits: int, sample: int, population: int) -> tuple[float, float]:
    """The shares of a population that explain `hits` in a sample without replacement, each bound at 5 %.

    The exact interval of the hypergeometric law: it holds the truth at least nine times in ten, and is the
    truth itself once the sample is the population.
    """
    import numpy as np
    from scipy.stats import hypergeom

    possible = np.arange(hits, population - (sample - hits) + 1)
    law, tail = hypergeom(population, possible, sample), (1 - SURE) / 2
    likely = possible[(law.sf(hits - 1) > tail) & (law.cdf(hits) > tail)]
    return float(likely.min()) / population, float(likely.max()) / population


def sentence(found: Regret) -> str:
    """How often, how surely, and what it was worth."""
    best = f"best {found.top}" if found.top > 1 else "best"
    often = (
        f"{found.missed} of {len(found.trials)} pruned trials that were run to their end would have been "
        f"among the {best}"
    )
    if len(found.trials) < found.pruned:
        low, high = 100 * found.low, 100 * found.high
        often += (
            f"; of all {found.pruned} that were pruned it is {low:.0f} to {high:.0f} %, nine times in ten"
        )
    often += "."
    share_saved = found.saved_epochs / max(1.0, found.saved_epochs + found.trained_epochs)  # none reported: 0
    saved = (
        f"Pruning saved about {found.saved_epochs:,.0f} epochs and {found.saved_seconds:,.0f} s of work, "
        f"{100 * share_saved:.0f} % of what the search would have trained."
    )
    if not found.missed or found.best_missed == found.best:
        return f"{often} {saved}"
    best_two = f"The best of them came to {found.best_missed:.6g}; the study's best is {found.best:.6g}."
    return f"{often} {saved} {best_two}"


def unprune(database: Database, row: StudyRow, trial: int) -> int:
    """Queue a copy of a pruned trial that goes on from its checkpoint to the end; returns its number.

    Raises:
        UserError: it was not pruned, or has a copy already.
    """
    epochs = StudySpec.model_validate(row.spec).full_epochs or 0

    def verb(connection: Transaction) -> int | None:
        made = repeats.carry_on(connection, row, trial, epochs)
        if made is not None:
            note(connection, database, row, "unprune", trial=trial, copy=made.number)
        return None if made is None else made.number

    number = database.write_once(verb)
    if number is None:
        raise UserError(f"{row.name}/{trial} was not pruned, or has a copy already; `hpo trials {row.name}`")
    return number


def _in_order(row: StudyRow, trials: tuple[TrialRecord, ...]) -> list[TrialRecord]:
    """The pruned trials in the order of the sample."""
    pruned = (trial for trial in trials if trial.state == "pruned" and not trial.foreign)
    return sorted(pruned, key=lambda trial: (in_sample(row.seed, trial.ticket), trial.number))
