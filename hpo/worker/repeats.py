"""Repeats as a worker serves them: trainings that are no trials, so none reaches Optuna's tables.

A runner cannot tell one from a trial. What differs is here: where its parameters and its seed come from, and
which of its words are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial

from hpo.runner import messages as said
from hpo.runner.messages import Beginning, Served
from hpo.spec import StudySpec, resolve
from hpo.spec.sampling import NoPruner
from hpo.studies.confirmed import race
from hpo.worker import writes
from hpo.worker.desk import Held
from hpo.worker.pruning import Pruning
from hpo.worker.study import ServedStudy, running
from hpo.worker.writes import Pending, Then
from storage.database.engine import Database, Transaction
from storage.database.records import AttemptState, Claim, Repeat, StudyRow
from storage.files import checkpoints
from storage.history.known import KnownTrials, read_whole
from storage.queue import attempts, optuna_rows, repeats, studies
from storage.queue.attempts import Row, Write
from storage.queue.optuna_rows import Trial

MEMBERS = "training"  # the attribute in which our objectives tell of several trainings


@dataclass
class Again:
    """A repeat that a runner holds."""

    repeat: Repeat
    trial: FrozenTrial  # whose setting it has
    values: tuple[float, ...] | None  # of its trainings, once it, or an earlier attempt, has said them


class ServedRepeats(ServedStudy):
    """The repeats of one study, in the place of a study: nothing is asked, nothing is pruned or parked."""

    def __init__(
        self, database: Database, row: StudyRow, spec: StudySpec, code: str = ".", worker_id: str = ""
    ) -> None:
        super().__init__(database, row, spec, code, worker_id)
        assert row.repeats_of is not None
        of = row.repeats_of
        self.of = database.read(studies.by_id, of)
        self.known = KnownTrials(self.of.optuna_study_id)  # what an objective may read of the study
        budget = spec.budget.model_copy(update={"epochs": None})
        alone = spec.model_copy(update={"pruner": NoPruner(name="none"), "budget": budget})
        self.pruning = Pruning(row, alone, self.known, self._learn_rungs, lambda: self._template)
        self.held: dict[int, Again] = {}  # by ticket

    @property
    def is_drawn(self) -> bool:
        return False

    def as_served(self) -> Served:
        """As the study whose trials they repeat, but that none is pruned."""
        plain = super().as_served()
        return replace(plain, study=self.of.name, prunes=False, lanes=1, points=())

    def claimed(self, connection: Transaction, claim: Claim) -> None:
        """Learn what a ticket repeats, in the transaction that has claimed it."""
        its, values = repeats.of_ticket(connection, claim.lease.ticket_id)
        (trial,) = read_whole(connection, [its.trial_id])
        self.held[claim.lease.ticket_id] = Again(its, trial, values)

    def seed_of(self, claim: Claim) -> int:
        return self.held[claim.lease.ticket_id].repeat.seed

    def repeats_trial(self, claim: Claim) -> int | None:
        return self.held[claim.lease.ticket_id].repeat.trial_number

    def origin_of(self, claim: Claim) -> str | None:
        """Where the trial left the checkpoint that it goes on from, where it does."""
        its = self.held[claim.lease.ticket_id].repeat
        if its.from_epoch is None:
            return None
        return checkpoints.trial_key(self.of.uid, self.of.first_name, its.trial_number)

    def begins_with(self, claim: Claim) -> Beginning | None:
        """What its first attempt begins with; None for one that looks for a checkpoint."""
        anew = claim.lease.attempt == 1 and self.held[claim.lease.ticket_id].repeat.from_epoch is None
        return self.beginning_of(claim) if anew else None

    def beginning_of(self, claim: Claim) -> Beginning:
        """The trial's setting, with nothing of what it came to."""
        again = self.held[claim.lease.ticket_id]
        of, its_id = again.trial, repeats.artifacts_of(claim.lease.ticket_id)
        found = running(of.number, of.params, of.distributions, its_id)
        config = resolve(self.spec, found.params)
        if again.repeat.seeds > 1:
            config["seeds"] = again.repeat.seeds
        return Beginning(found, config, {})


def of_claim(claim: Claim) -> Trial:
    """What stands for the trial: its files lie where the ticket's number says."""
    return Trial(repeats.artifacts_of(claim.lease.ticket_id), claim.number)


def of_message(held: Held, message: said.Numbered) -> Pending:
    """What a runner said of a repeat, as `writes.of_message` of a trial: its lease is looked at all the same.

    Raises:
        ValueError: it may not say so.
    """
    study, lease = held.desk.study, held.lease
    assert isinstance(study, ServedRepeats)
    again = study.held[lease.ticket_id]
    pending = partial(Pending, held, message=message)
    looked = (Write(lease, lambda _connection: None),)
    match message:
        case said.Finish():
            return _end(held, again, message)
        case said.TakeOver(step=step):
            take_over = Row(lease, attempts.take_over, (held.claim, step, False))
            return pending((take_over,), Then.RUN, answer=study.beginning_of(held.claim))
        case said.Suggest(name=name):
            raise ValueError(f"trial {again.trial.number} had no parameter {name}, so its repeats have none")
        case said.Attribute(of="user", key=key, value=text) if key == MEMBERS and again.repeat.seeds > 1:
            again.values = _members(text)
            say = partial(repeats.say, ticket_id=lease.ticket_id, values=again.values)
            return pending((Write(lease, say),))
        case said.ReadAttributes(of=of):
            read = partial(optuna_rows.study_attributes, optuna_study_id=study.of.optuna_study_id, of=of)
            return pending(then=Then.READ, read=lambda: study.database.read(read))
        case said.ShouldPrune():
            return pending(looked, Then.ANSWER, answer=False)
        case said.StopStudy() | said.EnqueuePoint():  # they are not the study's business
            return pending(looked, Then.ANSWER)
        case said.Step() | said.Attribute() | said.Parameter():
            return pending(looked)
        case said.Advanced() | said.FileStored() | said.FileKept() | said.Sync() | said.ReadStudy():
            return writes.of_trial(held, message)
    raise ValueError(f"{type(message).__name__} is nothing a repeat says")


def _members(text: str) -> tuple[float, ...]:
    """The value of each training, as `objectives.members` records them: the objective's stands first."""
    found: list[Mapping[str, Any]] = json.loads(text)["members"]
    return tuple(float(next(iter(one.values()))) for one in found)


def _end(held: Held, again: Again, message: said.Finish) -> Pending:
    """The last write of an attempt at a repeat."""
    values: tuple[float, ...] = ()
    if message.state is AttemptState.COMPLETE:
        values = again.values or tuple(message.values or ())
        if len(values) != again.repeat.seeds:
            raise ValueError(f"{again.repeat.seeds} trainings were to be done, and {len(values)} were")

    def say(connection: Transaction) -> None:
        repeats.say(connection, held.lease.ticket_id, values)
        if held.desk.study.row.repeats == repeats.CONFIRM:
            race(connection, held.desk.study.row, held.lease.ticket_id)

    return writes.end(held, message, say)
