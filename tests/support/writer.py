"""One attempt's writes, each committed by itself, as a broker commits what a runner says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution

from storage.database.engine import Database
from storage.database.errors import LeaseLostError
from storage.database.records import AttemptState, Claim, KeptFile, Lease, Need, TicketState
from storage.files import kept_files
from storage.queue import attempts, leases, optuna_rows, outcomes
from storage.queue.attempts import Delivery, Entry, Report, Row, Write
from storage.queue.optuna_rows import Owner, Trial


class Writer:
    """Writes of the attempt whose `lease` it has; what refuses a write is raised."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.lease: Lease | None = None
        self.trial: Trial | None = None

    def start_trial(
        self,
        optuna_study_id: int,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        saw: Mapping[str, Any],
    ) -> Trial:
        start = partial(
            attempts.start_trial,
            lease=claim.lease,
            optuna_study_id=optuna_study_id,
            params=params,
            distributions=distributions,
            sampler_saw=saw,
        )
        made: Trial = self._commit(Write(claim.lease, start))
        self.trial = made
        return made

    def take_over(self, claim: Claim, step: int | None) -> Trial:
        assert claim.trial_id is not None
        assert claim.trial_number is not None
        self._commit(Row(claim.lease, attempts.take_over, (claim, step, False)))
        self.trial = Trial(claim.trial_id, claim.trial_number)
        return self.trial

    def report(self, step: int, value: float | None, metrics: Mapping[str, float]) -> None:
        self._commit(Report(self._held(), self._trial_id(), step, value, metrics))

    def add_params(self, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
        self._write(
            optuna_rows.add_params, trial_id=self._trial_id(), params=params, distributions=distributions
        )

    def set_attribute(self, of: Owner, key: str, value: Any, owner_id: int | None = None) -> None:
        owner = self._trial_id() if owner_id is None else owner_id
        self._write(optuna_rows.set_attribute, of=of, owner_id=owner, key=key, value_json=json.dumps(value))

    def deliver(
        self,
        state: TicketState,
        values: Sequence[float] | None,
        *,
        error: str | None = None,
        constraints: Mapping[str, float] | None = None,
        weights: tuple[int, KeptFile] | None = None,
        agree: Callable[[Any], Exception | None] = lambda _connection: None,
    ) -> None:
        self._commit(
            Delivery(
                self._held(),
                self._trial_id(),
                state,
                values,
                error=error,
                constraints=lambda _connection: constraints or {},
                weights=weights,
                agree=agree,
            )
        )

    def fail(self, error: str, peak_memory: float | None = None) -> None:
        self._end(AttemptState.FAILED, outcomes.fail, error=error, peak_memory=peak_memory)

    def end_beside(self, error: str) -> None:
        aside = partial(outcomes.set_aside, need=Need.RUNNER, state=AttemptState.LOST)
        self._end(AttemptState.LOST, aside, error=error)

    def set_aside(self, error: str, peak_memory: float | None = None) -> None:
        self._end(AttemptState.FAILED, outcomes.set_aside, error=error, peak_memory=peak_memory)

    def release(self, why: str) -> None:
        self._end(AttemptState.RELEASED, outcomes.release, why=why)

    def keep_file(self, study_id: int, file: KeptFile) -> None:
        self._write(
            kept_files.record,
            study_id=study_id,
            trial_id=self._trial_id(),
            attempt=self._held().attempt,
            file=file,
        )

    def keep_stored_file(self, study_id: int, name: str, sha256: str, size: int) -> bool:
        return bool(
            self._write(
                attempts.keep_stored_file,
                study_id=study_id,
                trial_id=self._trial_id(),
                lease=self._held(),
                name=name,
                sha256=sha256,
                size=size,
            )
        )

    def checkpoint_advanced(self) -> None:
        self._write(attempts.checkpoint_advanced, lease=self._held())

    def note_rejected(self) -> None:
        self.database.write(partial(leases.note_rejected, lease=self._held()))

    def _write(self, verb: Callable[..., Any], **fields: Any) -> Any:
        return self._commit(Write(self._held(), partial(verb, **fields)))

    def _end(self, ended: AttemptState, verb: Callable[..., Any], **fields: Any) -> None:
        lease = self._held()
        self._commit(Write(lease, partial(verb, lease=lease, **fields), ends=ended))

    def _commit(self, entry: Entry) -> Any:
        (answer,) = attempts.commit(self.database.write, [entry])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _held(self) -> Lease:
        if self.lease is None:
            raise LeaseLostError("no attempt is held")
        return self.lease

    def _trial_id(self) -> int:
        self._held()
        if self.trial is None:
            raise LeaseLostError("no trial is held")
        return self.trial.id
