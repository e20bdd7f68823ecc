"""What an attempt writes: its trial, reports, result, failure. Each verb is one fenced transaction.

Every verb can be repeated: when a commit's answer was lost, reading the ticket or the attempt back
tells whether it had happened (DESIGN: an ambiguous commit is resolved).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from storage.database.engine import Database
from storage.database.errors import DatabaseUnreachableError, LeaseLostError
from storage.database.optuna_tables import TrialState
from storage.database.records import AttemptState, Claim, Lease, TicketState
from storage.database.tables import attempt, metric, ticket
from storage.files import kept_files
from storage.files.kept_files import KeptFile
from storage.queue import leases, optuna_rows, outcomes
from storage.queue.fence import Fence
from storage.queue.optuna_rows import Trial
from storage.queue.shared_storage import SharedStorage

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class AttemptWriter:
    """The verbs of one runner, which works on one attempt at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.fence = Fence(database)
        self.storage = SharedStorage(database, self.fence)

    @contextmanager
    def holding(self, lease: Lease) -> Iterator[None]:
        """Writes inside are this lease's; afterwards nothing may be written."""
        self.fence.lease = lease
        try:
            yield
        finally:
            self.fence.lease = None
            self.storage.trial_id = None

    def start_trial(
        self,
        optuna_study_id: int,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        sampler_saw: Mapping[str, Any],
    ) -> Trial:
        """Create the trial with all its parameters and bind it to the ticket, in one transaction."""
        lease = claim.lease

        def start(connection: Connection) -> Trial:
            held = leases.check(connection, lease)
            if held.trial_id is not None:  # an earlier try committed without our hearing of it
                return Trial(held.trial_id, held.trial_number)
            made = optuna_rows.insert_trial(connection, optuna_study_id, params, distributions)
            link = {"trial_id": made.id, "trial_number": made.number}
            connection.execute(
                ticket.update()
                .where(ticket.c.id == lease.ticket_id)
                .values(**link, sampler_saw=json.dumps(dict(sampler_saw)))
            )
            connection.execute(
                attempt.update()
                .where(attempt.c.ticket_id == lease.ticket_id, attempt.c.number == lease.attempt)
                .values(**link)
            )
            return made

        trial = self.database.write(start)
        self.storage.work_on(optuna_study_id, trial.id, trial.number)
        return trial

    def add_params(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
        """Write a stored trial's further parameters, in one transaction; those already there stay."""
        lease, trial_id = self._current()

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            there = optuna_rows.param_names(connection, trial_id)
            missing = {name: value for name, value in params.items() if name not in there}
            if missing:
                optuna_rows.insert_params(connection, trial_id, missing, distributions)

        self.database.write(write)

    def take_over(
        self,
        optuna_study_id: int,
        claim: Claim,
        checkpoint_step: int | None,
        *,
        keep_reports: bool = False,
    ) -> Trial:
        """Go on with an earlier attempt's trial from its checkpoint (None: from the beginning).

        Reports and metrics after the checkpoint and the pruner's rung attributes are dropped: a stale
        step 10 would hide a terrible epoch 1. `keep_reports`: the trial was finished, nothing is dropped.
        """
        assert claim.trial_id is not None
        assert claim.trial_number is not None
        trial = Trial(claim.trial_id, claim.trial_number)
        after = -1 if checkpoint_step is None else checkpoint_step

        def drop(connection: Connection) -> None:
            leases.check(connection, claim.lease)
            if not keep_reports:
                optuna_rows.forget_after(connection, trial.id, after)
                later = (metric.c.trial_id == trial.id) & (metric.c.step > after)
                connection.execute(metric.delete().where(later))
            connection.execute(
                attempt.update()
                .where(attempt.c.ticket_id == claim.lease.ticket_id, attempt.c.number == claim.lease.attempt)
                .values(resumed_from=checkpoint_step)
            )

        self.database.write(drop)
        self.storage.work_on(optuna_study_id, trial.id, trial.number)
        return trial

    def report(self, step: int, value: float | None, metrics: Mapping[str, float]) -> None:
        """Write one step's value and named metrics; a step reported again is overwritten."""
        lease, trial_id = self._current()

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            if value is not None:
                optuna_rows.upsert_report(connection, trial_id, step, value)
            _upsert_metrics(connection, trial_id, {step: metrics})

        self.database.write(write)

    def deliver(
        self,
        state: TicketState,
        values: Sequence[float] | None,
        peak_memory: float | None = None,
        *,
        error: str | None = None,
        metrics: Mapping[int, Mapping[str, float]] | None = None,
        weights: tuple[int, KeptFile] | None = None,
        agree: Callable[[Connection], None] = lambda _connection: None,
        when_away: Callable[[], None] = lambda: None,
    ) -> None:
        """Record the result, `complete`, `pruned` or `diverged`, of trial, ticket, attempt and study at once.

        Args:
            state: complete, pruned or diverged.
            values: one a direction; None for a pruned trial without a report, and for a diverged one.
            peak_memory: bytes.
            error: how a diverged trial said so.
            metrics: by step, what was logged and not written yet.
            weights: (study id, file) to keep with a trial that kept no model.
            agree: looks, in the transaction and with the study's row held, whether the result may count;
                what it raises goes to the caller, and nothing is written.
            when_away: called once when the database is away, before this waits for it.

        Raises:
            LeaseLostError: the ticket went to another attempt; this result does not count.
        """
        lease, trial_id = self._current()
        clock = self.database.clock

        def bring(connection: Connection) -> None:
            agree(connection)
            _upsert_metrics(connection, trial_id, metrics or {})
            if weights is not None and kept_files.MODEL not in kept_files.names_of(connection, trial_id):
                study_id, file = weights
                kept_files.record(connection, clock, study_id, trial_id, lease.attempt, file)
            if state is TicketState.DIVERGED:
                outcomes.diverge(connection, clock, lease, error or "the training diverged", peak_memory)
                return
            final = TrialState.COMPLETE if state is TicketState.COMPLETE else TrialState.PRUNED
            optuna_rows.finish(connection, trial_id, final, values)
            outcomes.deliver(connection, clock, lease, state, values, peak_memory)

        self._end(lease, AttemptState(state.value), bring, when_away)

    def fail(self, error: str, peak_memory: float | None = None) -> None:
        """Record that the objective failed."""
        lease = self._lease()
        self._end(
            lease,
            AttemptState.FAILED,
            lambda c: outcomes.fail(c, self.database.clock, lease, error, peak_memory),
        )

    def set_aside(self, error: str, peak_memory: float | None = None) -> None:
        """Record that the card's memory ran out beside others; the ticket waits for a card of its own."""
        lease = self._lease()
        self._end(
            lease,
            AttemptState.FAILED,
            lambda c: outcomes.set_aside(c, self.database.clock, lease, error, peak_memory),
        )

    def release(self, why: str) -> None:
        """Give the ticket back; another attempt goes on from the last checkpoint."""
        lease = self._lease()
        self._end(
            lease, AttemptState.RELEASED, lambda c: outcomes.release(c, self.database.clock, lease, why)
        )

    def keep_file(self, study_id: int, file: KeptFile) -> None:
        """Record a file kept with the trial; the same name again replaces it."""
        lease, trial_id = self._current()

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            kept_files.record(connection, self.database.clock, study_id, trial_id, lease.attempt, file)

        self.database.write(write)

    def keep_stored_file(self, study_id: int, name: str, sha256: str, size: int) -> bool:
        """Record a file whose content the study has in its store; False when it has not."""
        lease, trial_id = self._current()

        def write(connection: Connection) -> bool:
            leases.check(connection, lease)
            path = kept_files.stored_already(connection, study_id, sha256)
            if path is None:
                return False
            file = KeptFile(name, path, sha256, size)
            kept_files.record(connection, self.database.clock, study_id, trial_id, lease.attempt, file)
            return True

        return self.database.write(write)

    def checkpoint_advanced(self) -> None:
        """The attempt has got further than any before it: attempts lost until now count no more."""
        lease = self._lease()

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            connection.execute(ticket.update().where(ticket.c.id == lease.ticket_id).values(lost=0))

        self.database.write(write)

    def note_rejected(self) -> None:
        """Count one refused write of this (stale) attempt."""
        if self.fence.lease is not None:
            lease = self.fence.lease
            self.database.write(lambda connection: leases.note_rejected(connection, lease))

    def _end(
        self,
        lease: Lease,
        state: AttemptState,
        verb: Callable[[Connection], None],
        when_away: Callable[[], None] = lambda: None,
    ) -> None:
        """`verb`, fenced. Told that the lease is lost because it had succeeded before, that is success."""

        def write(connection: Connection) -> None:
            leases.check_last(connection, lease)
            verb(connection)

        try:
            with suppress(DatabaseUnreachableError):
                self.database.once(write, write=True)
                return
            when_away()
            self.database.write(write)
        except LeaseLostError:
            if self.database.read(lambda connection: _state_of(connection, lease)) != state:
                raise

    def _lease(self) -> Lease:
        if self.fence.lease is None:
            raise LeaseLostError("this process runs no attempt, so it may not write")
        return self.fence.lease

    def _current(self) -> tuple[Lease, int]:
        if self.storage.trial_id is None:
            raise LeaseLostError("this process runs no trial, so it may not write")
        return self._lease(), self.storage.trial_id


def end_if_live(connection: Connection, lease: Lease, verb: Callable[[Connection], None]) -> bool:
    """A supervisor ends a runner's attempt by a verb of `outcomes`; False when it was over already."""
    try:
        leases.check_last(connection, lease)
    except LeaseLostError:
        return False
    verb(connection)
    return True


def _upsert_metrics(
    connection: Connection, trial_id: int, metrics: Mapping[int, Mapping[str, float]]
) -> None:
    rows = [
        {"trial_id": trial_id, "name": name, "step": step, "value": number}
        for step, named in metrics.items()
        for name, number in named.items()
    ]
    if rows:
        connection.execute(_upsert_metric(connection.dialect.name), rows)


@cache
def _upsert_metric(dialect: str) -> Any:
    """Made once: SQLAlchemy compiles a statement anew that has its values inside."""
    new = optuna_rows.upsert(dialect, metric)
    return new.on_conflict_do_update(
        index_elements=["trial_id", "name", "step"], set_={"value": new.excluded.value}
    )


def _state_of(connection: Connection, lease: Lease) -> str | None:
    return connection.scalar(
        sa.select(attempt.c.state).where(
            attempt.c.ticket_id == lease.ticket_id, attempt.c.number == lease.attempt
        )
    )
