"""What an attempt writes: its trial, reports, result, failure. Each verb is one fenced transaction.

Every verb can be repeated: when a commit's answer was lost, reading the ticket or the attempt back
tells whether it had happened (DESIGN: an ambiguous commit is resolved).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from storage import leases, outcomes
from storage.engine import Database
from storage.errors import LeaseLostError
from storage.fence import Fence
from storage.records import AttemptState, Claim, Lease, TicketState
from storage.shared_storage import SharedStorage
from storage.tables import artifact, attempt, metric, ticket

_reports = models.TrialIntermediateValueModel.__table__
_params: Any = models.TrialParamModel.__table__
_trial_attributes = models.TrialSystemAttributeModel.__table__
_ReportModel = models.TrialIntermediateValueModel


@dataclass(frozen=True)
class Trial:
    """The Optuna trial of a claim."""

    id: int
    number: int


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
        user_attrs: Mapping[str, Any],
        sampler_saw: Mapping[str, Any],
    ) -> Trial:
        """Create the trial with all its parameters and bind it to the ticket, in one transaction."""
        template = create_trial(state=TrialState.RUNNING, user_attrs=dict(user_attrs))
        bound: list[Trial] = []

        def bind(session: Session) -> None:
            made = next(item for item in session if isinstance(item, models.TrialModel))
            trial_id = cast(int, made.trial_id)
            bound.append(Trial(trial_id, cast(int, made.number)))
            if params:
                session.execute(sa.insert(_params), _param_rows(trial_id, params, distributions))
            link = {"trial_id": made.trial_id, "trial_number": made.number}
            session.execute(
                ticket.update()
                .where(ticket.c.id == claim.lease.ticket_id)
                .values(**link, sampler_saw=json.dumps(dict(sampler_saw)))
            )
            session.execute(
                attempt.update()
                .where(attempt.c.ticket_id == claim.lease.ticket_id, attempt.c.number == claim.lease.attempt)
                .values(**link)
            )

        def once() -> Trial:
            if bound:  # an earlier try may have committed without our hearing of it
                found = self.database.read(lambda connection: _bound(connection, claim.lease))
                if found is not None:
                    return found
            with self.fence.transaction(also=bind):
                self.storage._inner.create_new_trial(optuna_study_id, template)
            return bound[-1]

        trial = self.database.patience(self.database.url, once)
        self.storage.trial_id = trial.id
        return trial

    def add_params(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
        """Write a stored trial's further parameters, in one transaction; those already there stay."""
        lease, trial_id = self._current()

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            there = set(
                connection.scalars(sa.select(_params.c.param_name).where(_params.c.trial_id == trial_id))
            )
            missing = {name: value for name, value in params.items() if name not in there}
            if missing:
                connection.execute(sa.insert(_params), _param_rows(trial_id, missing, distributions))

        self.database.write(write)

    def take_over(self, optuna_study_id: int, claim: Claim, checkpoint_step: int | None) -> Trial:
        """Go on with an earlier attempt's trial from its checkpoint (None: from the beginning).

        Reports and metrics after the checkpoint and the pruner's rung attributes are dropped: a stale
        step 10 would hide a terrible epoch 1.
        """
        assert claim.trial_id is not None
        assert claim.trial_number is not None
        trial = Trial(claim.trial_id, claim.trial_number)
        after = -1 if checkpoint_step is None else checkpoint_step

        def drop(connection: Connection) -> None:
            leases.check(connection, claim.lease)
            connection.execute(
                _reports.delete().where(_reports.c.trial_id == trial.id, _reports.c.step > after)
            )
            connection.execute(metric.delete().where(metric.c.trial_id == trial.id, metric.c.step > after))
            connection.execute(
                _trial_attributes.delete().where(
                    _trial_attributes.c.trial_id == trial.id,
                    _trial_attributes.c.key.like("completed\\_rung%", escape="\\"),
                )
            )
            connection.execute(
                attempt.update()
                .where(attempt.c.ticket_id == claim.lease.ticket_id, attempt.c.number == claim.lease.attempt)
                .values(resumed_from=checkpoint_step)
            )

        self.database.write(drop)
        self.storage.get_all_trials(optuna_study_id, deepcopy=False)  # Optuna's cache must know the trial
        self.storage.trial_id = trial.id
        return trial

    def report(self, step: int, value: float | None, metrics: Mapping[str, float]) -> None:
        """Write one step's value and named metrics; a step reported again is overwritten."""
        lease, trial_id = self._current()
        upsert = sqlite.insert if self.database.engine.dialect.name == "sqlite" else postgresql.insert

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            if value is not None:
                stored, kind = _ReportModel.intermediate_value_to_stored_repr(value)
                row = upsert(_reports).values(
                    trial_id=trial_id, step=step, intermediate_value=stored, intermediate_value_type=kind
                )
                connection.execute(
                    row.on_conflict_do_update(
                        index_elements=["trial_id", "step"],
                        set_={
                            "intermediate_value": row.excluded.intermediate_value,
                            "intermediate_value_type": row.excluded.intermediate_value_type,
                        },
                    )
                )
            if metrics:
                rows = upsert(metric).values(
                    [
                        {"trial_id": trial_id, "name": name, "step": step, "value": number}
                        for name, number in metrics.items()
                    ]
                )
                connection.execute(
                    rows.on_conflict_do_update(
                        index_elements=["trial_id", "name", "step"], set_={"value": rows.excluded.value}
                    )
                )

        self.database.write(write)

    def deliver(
        self, state: TicketState, values: Sequence[float] | None, peak_memory: float | None = None
    ) -> None:
        """Record the result, `complete` or `pruned`: trial, ticket, attempt, study in one transaction.

        Raises:
            LeaseLostError: the ticket went to another attempt; this result does not count.
        """
        lease, trial_id = self._current()
        final = TrialState.COMPLETE if state is TicketState.COMPLETE else TrialState.PRUNED

        def also(session: Session) -> None:
            outcomes.deliver(session, self.database.clock, lease, state, values, peak_memory)

        def once() -> None:
            with self.fence.transaction(also=also):
                self.storage._inner.set_trial_state_values(trial_id, final, values)

        self._unless_done(once, lease, AttemptState(state.value))

    def fail(self, error: str, peak_memory: float | None = None) -> None:
        """Record that the objective failed."""
        lease = self._lease()
        self._end(
            lease,
            AttemptState.FAILED,
            lambda c: outcomes.fail(c, self.database.clock, lease, error, peak_memory),
        )

    def release(self, why: str) -> None:
        """Give the ticket back; another attempt goes on from the last checkpoint."""
        lease = self._lease()
        self._end(
            lease, AttemptState.RELEASED, lambda c: outcomes.release(c, self.database.clock, lease, why)
        )

    def keep_artifact(self, study_id: int, name: str, path: str, sha256: str, size: int) -> None:
        """Record a file kept with the trial; the same name again replaces it."""
        lease, trial_id = self._current()

        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            connection.execute(
                artifact.delete().where(artifact.c.trial_id == trial_id, artifact.c.name == name)
            )
            connection.execute(
                artifact.insert().values(
                    study_id=study_id,
                    trial_id=trial_id,
                    attempt=lease.attempt,
                    name=name,
                    path=path,
                    sha256=sha256,
                    bytes=size,
                    created_at=self.database.clock.now(),
                )
            )

        self.database.write(write)

    def note_rejected(self) -> None:
        """Count one refused write of this (stale) attempt."""
        if self.fence.lease is not None:
            lease = self.fence.lease
            self.database.write(lambda connection: leases.note_rejected(connection, lease))

    def _end(self, lease: Lease, state: AttemptState, verb: Callable[[Connection], None]) -> None:
        def write(connection: Connection) -> None:
            leases.check(connection, lease)
            verb(connection)

        self._unless_done(lambda: self.database.write(write), lease, state)

    def _unless_done(self, call: Callable[[], None], lease: Lease, state: AttemptState) -> None:
        """`call`, patiently. Told that the lease is lost because it had succeeded before, that is success."""
        try:
            self.database.patience(self.database.url, call)
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


def end_from_outside(database: Database, lease: Lease, verb: Callable[[Connection], None]) -> bool:
    """A supervisor ends a runner's attempt with one of `storage.outcomes`; False when it was over already."""

    def write(connection: Connection) -> bool:
        try:
            leases.check(connection, lease)
        except LeaseLostError:
            return False
        verb(connection)
        return True

    return database.write(write)


def _param_rows(
    trial_id: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> list[dict[str, Any]]:
    """Rows of Optuna's parameter table, as `RDBStorage.set_trial_param` would write them one by one."""
    return [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in params.items()
    ]


def _bound(connection: Connection, lease: Lease) -> Trial | None:
    row = connection.execute(
        sa.select(ticket.c.trial_id, ticket.c.trial_number).where(
            ticket.c.id == lease.ticket_id, ticket.c.attempt == lease.attempt
        )
    ).first()
    return None if row is None or row.trial_id is None else Trial(row.trial_id, row.trial_number)


def _state_of(connection: Connection, lease: Lease) -> str | None:
    return connection.scalar(
        sa.select(attempt.c.state).where(
            attempt.c.ticket_id == lease.ticket_id, attempt.c.number == lease.attempt
        )
    )
