"""One runner at one study: claim a ticket, choose its point, call the objective, deliver what comes of it."""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import CodeDiffersError, HpoError
from hpo.fingerprint import fingerprint
from hpo.objective import Objective, check_settings, load_objective
from hpo.runner import devices, results
from hpo.runner.checkpoint import CheckpointStore, newest_readable
from hpo.runner.code import CodeGuard
from hpo.runner.interrupt import Interrupted, StopFlag, Urgency
from hpo.runner.messages import Boot, Ended, NoTicket, Reported, Started
from hpo.runner.output import captured
from hpo.runner.trial import RunningTrial
from hpo.runner.values import BadValueError, NotANumberError, checked_values, says_diverged, told
from hpo.search.diverged import is_diverged
from hpo.search.draws import training_seed
from hpo.search.prior import prior_trials
from hpo.search.pruners import make_pruner
from hpo.search.samplers import make_sampler, needs_stored_trial, suggest, uncached
from hpo.search.space import distribution
from hpo.spec import Keep, StudySpec, resolve
from hpo.wiring import open_artifacts
from storage.database.engine import Database
from storage.database.errors import (
    ArtifactError,
    ArtifactsAwayError,
    DatabaseFaultError,
    DatabaseUnreachableError,
    LeaseLostError,
    UnknownStudyError,
)
from storage.database.records import AttemptState, Claim, NothingToClaim, StudyRow, TicketState
from storage.files import checkpoints, retention
from storage.files.kept_files import KeptFile
from storage.queue import studies, tickets
from storage.queue.attempts import AttemptWriter
from storage.queue.optuna_rows import Trial

log = logging.getLogger(__name__)
Send = Callable[[Any], None]
STORE_PATIENCE = 300.0  # seconds for which a trial waits for an artifact store that is away


class StudySession:
    """What a runner keeps of a study between trials: spec, objective, Optuna study, artifact store.

    Raises:
        ObjectiveError: the objective cannot be imported here.
        UnknownStudyError: there is no such study.
    """

    def __init__(self, database: Database, writer: AttemptWriter, boot: Boot, study: str) -> None:
        self.database = database
        self.writer = writer
        self.boot = boot
        self.row: StudyRow = database.read(lambda connection: studies.get(connection, study))
        self.spec = StudySpec.model_validate(self.row.spec)
        self.objective: Objective = load_objective(self.spec.objective_path, Path(boot.code))
        check_settings(self.objective, self.spec)
        self.prior = prior_trials(
            self.spec, database.read(lambda connection: studies.prior(connection, self.row.id))
        )
        self.store = open_artifacts(self.row.artifacts, STORE_PATIENCE, database.patience.give_up)
        self.needs_restart = False  # an objective's error said that this process should be replaced
        self.distributions = {name: distribution(p) for name, p in self.spec.space.items()}
        self.optuna = optuna.load_study(
            study_name=study, storage=writer.storage, pruner=make_pruner(self.spec)
        )
        devices.set_threads(self.spec.threads)
        here = fingerprint(self.objective, Path(boot.code))
        self.code = CodeGuard(database, self.row, here, allow=boot.allow_mismatch)

    def claim(self, alone: bool | None = None) -> Claim | NothingToClaim:
        """The next ticket, leased to this runner; `alone` as in `tickets.claim_next`."""
        return self.database.write(
            lambda connection: tickets.claim_next(
                connection,
                self.database.clock,
                self.row.id,
                self.boot.worker_id,
                self.boot.runner,
                self.boot.shown_device,
                self.boot.lease,
                alone,
            )
        )

    def run_one(self, stop: StopFlag, send: Send, alone: bool | None = None) -> None:
        """Claim one ticket and run it to its end; says so to the worker through `send`."""
        self.code.compare()
        claim = self.claim(alone)
        if isinstance(claim, NothingToClaim):
            if claim.ended and not claim.fault and self.boot.runner == 0:
                retention.sweep(self.database, self.store, self.row, self._best_kept)
            send(NoTicket(claim.ended, claim.why, claim.fault, claim.alone))
            return
        stop.begin_trial()
        self.optuna = uncached(self.optuna)  # a sampler must see the trials that ended since
        with self.writer.holding(claim.lease):
            try:
                send(self._attempt(claim, stop, send))
            except ArtifactsAwayError as error:  # nobody's fault, and nothing is lost but time
                log.warning("the trial is given back: %s", error)
                self.writer.release(str(error))
                send(Ended(claim.lease, AttemptState.RELEASED, error=str(error)))
            except ArtifactError as error:  # before the objective began: this machine cannot use the store
                self.writer.release(str(error))
                send(Ended(claim.lease, AttemptState.RELEASED, error=str(error)))
                raise HpoError(f"the study's files cannot be used from here: {error}") from error
            except CodeDiffersError as error:
                self.writer.release(str(error))
                send(Ended(claim.lease, AttemptState.RELEASED, error=str(error)))
                raise
            except LeaseLostError as error:
                log.warning("%s", error)
                self.writer.note_rejected()
                send(Ended(claim.lease, AttemptState.LOST, error=str(error)))

    def _attempt(self, claim: Claim, stop: StopFlag, send: Send) -> Ended:
        delivered = self._deliver_kept(claim, send)
        if delivered is not None:
            return delivered
        resumed = self._resumed(claim)
        trial, frozen = self._trial(claim, resumed)
        folder = checkpoints.trial_key(self.row.uid, self.row.name, trial.number)
        attempt = claim.lease.attempt
        step = None if resumed is None else resumed.step
        send(Started(self.row.name, claim.lease, trial.number, attempt, step))
        seed = training_seed(self.row.seed, claim.number)
        self.optuna.sampler = make_sampler(self.spec, claim.number)
        running = RunningTrial(
            self.optuna,
            frozen,
            spec=self.spec,
            config=resolve(self.spec, frozen.params),
            point=claim.point,
            device=self.boot.device,
            seed=seed,
            attempt=attempt,
            checkpoint=CheckpointStore(
                self.store, folder, attempt, resumed, self.spec.keep.last, partial(self._advanced, claim)
            ),
            writer=self.writer,
            store=self.store,
            folder=folder,
            study_id=self.row.id,
            stop=stop,
            on_report=lambda at, value: send(Reported(claim.lease, at, value)),
        )
        if self.code.marks:
            running.set_user_attr("code_mismatch", self.code.marks)
        with captured(self.store, f"{folder}/{attempt}"):
            seed_everything(seed)
            devices.reset_peak_memory(self.boot.device)
            return self._call(running, claim, stop)

    def _call(self, running: RunningTrial, claim: Claim, stop: StopFlag) -> Ended:
        lease = claim.lease
        try:
            returned = self.objective.call(running)
            values = checked_values(returned, len(self.row.spec["directions"]))
        except (Interrupted, LeaseLostError) as reason:
            if isinstance(reason, LeaseLostError) or stop.urgency is Urgency.LOST:
                self.writer.note_rejected()
                return Ended(lease, AttemptState.LOST, error=str(reason))
            self.writer.release("drained")
            return Ended(lease, AttemptState.RELEASED)
        except NotANumberError as error:
            return self._diverged(running, claim, str(error))
        except optuna.TrialPruned:
            if running.is_at_nan:  # which every pruner prunes
                return self._diverged(running, claim, "the last report is nan: this setting diverged")
            last = running.last_report
            self._deliver(running, claim, TicketState.PRUNED, last)
            return Ended(lease, AttemptState.PRUNED, last)
        except BadValueError as error:
            return self._failed(running, claim, str(error))
        except (DatabaseUnreachableError, DatabaseFaultError, ArtifactsAwayError):
            raise  # told to leave while the database is away, or what it needs cannot be used; nobody's fault
        except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            text = told(error)
            print(text, file=sys.stderr)
            if stop.signalled:  # a signal to the whole group ends data loaders and the like
                self.writer.release("a signal ended what the objective had started")
                return Ended(lease, AttemptState.RELEASED, error=text)
            if self.boot.shared and not claim.alone and devices.out_of_device_memory(error):
                return self._set_aside(claim, text)
            self.needs_restart = bool(getattr(error, "needs_restart", False))
            if says_diverged(error) or running.is_at_nan:  # after NaN, an error is but its consequence
                return self._diverged(running, claim, text)
            return self._failed(running, claim, text)
        self._deliver(running, claim, TicketState.COMPLETE, values)
        return Ended(lease, AttemptState.COMPLETE, values)

    def _deliver(
        self,
        running: RunningTrial,
        claim: Claim,
        state: TicketState,
        values: tuple[float, ...] | None,
        error: str | None = None,
    ) -> None:
        """Record the result; kept on disk first when the database is away.

        Raises:
            CodeDiffersError: a result of other code came first; this one does not count.
        """
        peak = devices.peak_memory(self.boot.device)
        result = results.Finished(state, values, peak, running.take_unsent(), self.code.here, error)
        folder = checkpoints.trial_key(self.row.uid, self.row.name, running.number)
        is_kept = False

        def keep() -> None:
            nonlocal is_kept
            is_kept = True
            results.keep(self.store, folder, claim.lease.attempt, result)

        deliver = partial(
            self.writer.deliver,
            state,
            values,
            peak,
            error=error,
            metrics=result.metrics,
            weights=self._weights(state, running.checkpoint.newest),
            agree=partial(self.code.agree, state, self.code.here),
            when_away=keep,
        )
        try:
            deliver()
        except CodeDiffersError:
            try:
                self.code.compare()
            except CodeDiffersError:
                results.forget_trial(
                    self.store, folder, claim.lease.attempt
                )  # another attempt must not go on from them
                raise
            running.set_user_attr("code_mismatch", self.code.marks)
            deliver()
        if is_kept:
            results.remove(self.store, folder, claim.lease.attempt)
        self._let_go(running._trial_id, running.number)

    def _deliver_kept(self, claim: Claim, send: Send) -> Ended | None:
        """Deliver what an earlier attempt had finished and could not; None when it had not."""
        if claim.trial_number is None:
            return None
        folder = checkpoints.trial_key(self.row.uid, self.row.name, claim.trial_number)
        attempt = claim.lease.attempt
        kept = results.find(self.store, folder, attempt, len(self.row.spec["directions"]))
        if kept is None:
            return None
        assert claim.trial_id is not None
        self.writer.take_over(self.row.optuna_study_id, claim, None, keep_reports=True)
        if self.code.marks:
            self.writer.storage.set_trial_user_attr(claim.trial_id, "code_mismatch", self.code.marks)
        weights = self._weights(kept.state, self._resumed(claim))
        agree = partial(self.code.agree, kept.state, kept.code or self.code.here)
        try:
            self.writer.deliver(
                kept.state,
                kept.values,
                kept.peak_memory,
                error=kept.error,
                metrics=kept.metrics,
                weights=weights,
                agree=agree,
            )
        except CodeDiffersError as error:
            log.warning("the result that was kept does not count, the trial begins anew: %s", error)
            results.forget_trial(self.store, folder, claim.lease.attempt)
            return None
        send(Started(self.row.name, claim.lease, claim.trial_number, attempt, None))
        results.remove(self.store, folder, attempt)
        self._let_go(claim.trial_id, claim.trial_number)
        return Ended(claim.lease, AttemptState(kept.state.value), kept.values, kept.error)

    def _advanced(self, claim: Claim) -> None:
        """The trial got further than any attempt before, so it is not what made their workers die."""
        if claim.lost:
            with suppress(LeaseLostError):  # the next report says so
                self.writer.checkpoint_advanced()

    def _weights(self, state: TicketState, newest: checkpoints.Saved | None) -> tuple[int, KeptFile] | None:
        """What a complete trial that kept no model leaves in its place."""
        if state is not TicketState.COMPLETE or newest is None:
            return None
        return self.row.id, newest.as_kept_file()

    def _let_go(self, trial_id: int, trial: int) -> None:
        """Remove what nobody needs any more now that this trial is over."""
        retention.prune(self.database, self.store, self.row, self._best_kept)
        retention.tidy(self.database, self.store, self.row, trial_id, trial)

    def _best_kept(self) -> int | None:
        """How many trials keep their weights, as the study says now."""
        with suppress(UnknownStudyError):
            now = self.database.read(lambda connection: studies.get(connection, self.row.name))
            return Keep.model_validate(now.spec.get("keep", {})).best
        return self.spec.keep.best

    def _failed(self, running: RunningTrial, claim: Claim, error: str) -> Ended:
        self.writer.fail(error, devices.peak_memory(self.boot.device))
        if self.database.read(lambda connection: tickets.is_over(connection, claim.lease.ticket_id)):
            retention.tidy(self.database, self.store, self.row, running._trial_id, running.number)
        return Ended(claim.lease, AttemptState.FAILED, error=error)

    def _diverged(self, running: RunningTrial, claim: Claim, error: str) -> Ended:
        """A result like others, which samplers learn from, but that of no value."""
        self._deliver(running, claim, TicketState.DIVERGED, None, error)
        return Ended(claim.lease, AttemptState.DIVERGED, error=error)

    def _set_aside(self, claim: Claim, error: str) -> Ended:
        """The others on the device may be why its memory ran out: the trial is tried again without them."""
        self.needs_restart = True  # what this process still holds would be missing then
        self.writer.set_aside(error, devices.peak_memory(self.boot.device))
        return Ended(claim.lease, AttemptState.FAILED, error=error, set_aside=True)

    def _resumed(self, claim: Claim) -> checkpoints.Saved | None:
        if claim.trial_number is None:
            return None
        folder = checkpoints.trial_key(self.row.uid, self.row.name, claim.trial_number)
        return newest_readable(self.store, folder, claim.lease.attempt)

    def _trial(self, claim: Claim, resumed: checkpoints.Saved | None) -> tuple[Trial, FrozenTrial]:
        """The ticket's trial, with all its declared parameters stored."""
        if claim.trial_id is not None:
            step = None if resumed is None else resumed.step
            trial = self.writer.take_over(self.row.optuna_study_id, claim, step)
        elif needs_stored_trial(self.spec):
            trial = self.writer.start_trial(self.row.optuna_study_id, claim, {}, {}, {})
        else:
            params, saw = self._choose(claim, _unstored(), claim.point)
            dists = {name: self.distributions[name] for name in params}
            trial = self.writer.start_trial(self.row.optuna_study_id, claim, params, dists, saw)
            return trial, _frozen(trial, params, dists)
        frozen = self.writer.storage.get_trial(trial.id)
        params, _ = self._choose(claim, frozen, {**claim.point, **frozen.params})
        missing = {name: value for name, value in params.items() if name not in frozen.params}
        if missing:
            self.writer.add_params(missing, self.distributions)
            frozen = self.writer.storage.get_trial(trial.id)
        return trial, frozen

    def _choose(self, claim: Claim, asking: FrozenTrial, fixed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The point, and what the sampler knew when it chose (counts and newest trials, by number)."""
        params = suggest(self.spec, self.optuna, asking, claim.number, fixed, self.prior)
        if self.spec.sampler.name in ("grid", "random", "qmc"):
            return params, {}
        seen = self.optuna.get_trials(deepcopy=False)
        done = [trial.number for trial in seen if trial.state.is_finished()]
        running = [trial.number for trial in seen if not trial.state.is_finished()]
        saw = {"finished": len(done), "newest": max(done, default=None), "running": running}
        if diverged := sum(is_diverged(trial) for trial in seen):
            saw["diverged"] = diverged
        return params, saw | ({"prior": len(self.prior)} if self.prior else {})


def seed_everything(seed: int) -> None:
    """Seed the generators that objectives commonly use without saying so: random, NumPy, torch.

    Only libraries that are loaded are seeded; NumPy takes 32 bits.
    """
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _unstored() -> FrozenTrial:
    return FrozenTrial(
        number=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=-1,
    )


def _frozen(trial: Trial, params: dict[str, Any], dists: dict[str, BaseDistribution]) -> FrozenTrial:
    """The trial just stored, without reading it back."""
    frozen = _unstored()
    frozen.number = trial.number
    frozen._trial_id = trial.id
    frozen.params = dict(params)
    frozen.distributions = dict(dists)
    frozen.datetime_start = _started()
    return frozen


def _started() -> Any:
    import datetime

    return datetime.datetime.fromtimestamp(time.time())
