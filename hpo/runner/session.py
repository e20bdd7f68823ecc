"""One runner at one study: begin the attempts it is given, call the objective, say what comes of it."""

from __future__ import annotations

import copy
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from hpo.errors import CodeDiffersError, HpoError, SpecError
from hpo.fingerprint import fingerprint, packed
from hpo.objective import Objective, check_settings, load_objective
from hpo.runner import devices, results
from hpo.runner.checkpoint import CheckpointStore, Memory, newest_readable
from hpo.runner.interrupt import Interrupted, StopFlag, Urgency
from hpo.runner.link import Link, Voice
from hpo.runner.messages import Advanced, Beginning, Boot, Finish, Served, TakeOver, Task
from hpo.runner.output import LOG_NAME, captured
from hpo.runner.strays import Strays
from hpo.runner.study import NotAnObjectivesError
from hpo.runner.trial import RunningTrial
from hpo.runner.values import (
    BadValueError,
    NotANumberError,
    ProgramKilledError,
    TogetherError,
    checked_values,
    says_diverged,
    told,
)
from storage.database.errors import ArtifactError, ArtifactsAwayError, DatabaseFaultError, LeaseLostError
from storage.database.records import AttemptState, Need, TicketState
from storage.files.artifacts import ArtifactStore, digest
from storage.files.checkpoints import Saved

if TYPE_CHECKING:
    from hpo.runner.lanes import Pool
    from hpo.runner.ranks import FirstRank
    from hpo.spec import StudySpec

log = logging.getLogger(__name__)
STORE_PATIENCE = 300.0  # seconds for which a trial waits for an artifact store that is away
_PRINTED_THERE = (
    "This attempt ran in a Python process of its owner, by hpo.optimize or study.run: what it printed stands "
    "there, below the notebook's cell or in the terminal.\n"
)
KEEP_AFTER = 1.0  # seconds without an answer, after which a result is kept on disk


class Session:
    """What a runner keeps of a study between trials: its objective and its artifact store.

    `own`: the objective and the fingerprint of its code, of a process that is a person's own: output, threads
    and Ctrl-C are left alone there. None: it is imported, and the process is a runner's.

    Raises:
        ObjectiveError: the objective cannot be imported here.
        StorageError: the artifact store's URL cannot be used here.
    """

    def __init__(
        self,
        boot: Boot,
        link: Link,
        stop: StopFlag,
        own: tuple[Objective, Mapping[str, Any]] | None = None,
    ) -> None:
        served = boot.served
        self.served = served
        self.boot = boot
        self.link = link
        self.stop = stop
        folder = Path(boot.code)
        self.objective = find_objective(served, folder) if own is None else own[0]
        self.store = ArtifactStore(served.artifacts, STORE_PATIENCE, stop.leaving_now)
        self.needs_restart = False  # an objective's error said that this process should be replaced
        code = fingerprint(self.objective, folder) if own is None else own[1]
        own_code, self.note = packed(self.objective, code)
        self._unkept = [own_code] if own_code else []  # until its first result
        more = {"sampling": served.sampling, "kept": digest(own_code) if own_code else None}
        self.code: Mapping[str, Any] = {**code, **{name: one for name, one in more.items() if one}}
        self._is_own = own is not None
        self._pool: Pool | None = None  # of trials that are trained together
        self._memory: Memory | None = None
        self._first_rank: FirstRank | None = None  # of those that train a trial together
        self._strays = Strays()
        if not self._is_own:
            devices.set_threads(served.threads)

    def lane(self, link: Link, pool: Pool) -> Session:
        """The session of one lane among several: its trials are trained in the pool."""
        own = copy.copy(self)
        own.link, own.stop, own._pool = link, link.stop, pool
        own._memory = None if self.served.keeps_pruned else pool.memory
        return own

    def run(self, task: Task) -> None:
        """Run one attempt to its end.

        Raises:
            HpoError: this runner cannot work at this study.
            Interrupted: told to leave while the database is away; nothing more can be said.
        """
        self.stop.begin_trial()
        voice = self.link.begin(task.serial)
        try:
            with nullcontext() if self._is_own else self._strays.ended():
                self._attempt(task, voice)
        except ArtifactsAwayError as error:  # nobody's fault, and nothing is lost but time
            log.warning("the trial is given back: %s", error)
            self._finish(AttemptState.RELEASED, error=str(error))
        except ArtifactError as error:  # before the objective began: this machine cannot use the store
            self._finish(AttemptState.RELEASED, error=str(error))
            raise HpoError(f"the study's files cannot be used from here: {error}") from error
        except CodeDiffersError as error:
            self._finish(AttemptState.RELEASED, error=str(error))
            raise
        except LeaseLostError as error:
            log.warning("%s", error)
            self._finish(AttemptState.LOST, error=str(error))

    def _attempt(self, task: Task, voice: Voice) -> None:
        resumed: Saved | None = None
        beginning, held = task.beginning, None
        if beginning is None:
            if self._memory is not None and task.delivered == task.attempt - 1:  # nobody has tried it since
                held = self._memory.take(task.folder, task.delivered)
            if held is None:
                if self._delivered_kept(task):
                    return
                resumed = newest_readable(self.store, task.folder, task.attempt)
                if resumed is None and task.origin is not None:
                    resumed = newest_readable(self.store, task.origin)
            since = held or resumed
            try:
                beginning = self._taken_over(None if since is None else since.step)
            except (ValueError, TypeError, SpecError) as error:  # a point of plain Optuna's `enqueue_trial`
                self._failed(f"its parameters do not fit the study: {error}")
                return
        checkpoint = CheckpointStore(
            self.store,
            task.folder,
            task.attempt,
            resumed,
            self.served.keep_last,
            on_advance=(lambda: voice.post(Advanced)) if task.lost else (lambda: None),
            before_save=voice.flush,
            memory=self._memory,
            held=held,
        )
        running = RunningTrial(
            task,
            beginning,
            served=self.served,
            device=self.boot.device,
            link=voice,
            stop=self.stop,
            checkpoint=checkpoint,
            store=self.store,
            in_lane=self._pool is not None,
            ranks=(ranks := self._ranks(task, beginning, resumed, voice)),
        )
        if beginning.stops:
            self._deliver(running, task, TicketState.PRUNED, running.last_report)
            return
        if self._is_own:
            with suppress(ArtifactError):
                self.store.put(f"{task.folder}/{task.attempt}/{LOG_NAME}", _PRINTED_THERE.encode(), 0.0)
        kept = nullcontext() if self._is_own else self._captured(task)
        with kept:
            if self._pool is None:
                seed_everything(task.seed)
                devices.reset_peak_memory(self.boot.device)
            self._call(running, task)
        if ranks is not None:
            self._after(ranks)

    def _ranks(
        self, task: Task, beginning: Beginning, resumed: Saved | None, voice: Voice
    ) -> FirstRank | None:
        """What starts the further ranks of an attempt; None where it has none."""
        if self.served.ranks == 1:
            return None
        from hpo.runner.ranks import FirstRank, Order

        self._first_rank = self._first_rank or FirstRank(self.served.ranks)
        return self._first_rank.of(Order(self.boot, task, beginning, resumed), voice)

    def _after(self, ranks: FirstRank) -> None:
        distributed = sys.modules.get("torch.distributed")
        self.needs_restart |= distributed is not None and distributed.is_initialized()
        if not ranks.was_joined:
            self.note = (
                f"gpus_per_trial is {self.served.ranks}, and the objective has not used "
                "objectives.ranks.joined: one process trained each trial"
            )

    def _captured(self, task: Task) -> AbstractContextManager[None]:
        if self._pool is not None:
            return self._pool.log.part(self.store, f"{task.folder}/{task.attempt}")
        return captured(self.store, f"{task.folder}/{task.attempt}", self.served.log)

    def _taken_over(self, step: int | None, *, finished: bool = False) -> Beginning:
        beginning = self.link.ask(TakeOver, step, finished)
        assert isinstance(beginning, Beginning)
        return beginning

    def _call(self, running: RunningTrial, task: Task) -> None:
        """Call the objective; what comes of it is said."""
        try:
            call = self.objective.call if self._pool is None else partial(self._pool.enter, self.link)
            returned = call(running)
            values = checked_values(returned, len(self.served.directions))
        except (Interrupted, LeaseLostError) as reason:
            if self.stop.overdue:
                self._failed(self.stop.overdue)
            elif isinstance(reason, LeaseLostError) or self.stop.urgency is Urgency.LOST:
                self._finish(AttemptState.LOST, error=str(reason))
            else:
                self._finish(AttemptState.RELEASED, error="drained")
        except NotANumberError as error:
            self._deliver(running, task, TicketState.DIVERGED, None, str(error))
        except optuna.TrialPruned:
            if running.is_at_nan:  # which every pruner prunes
                why = "the last report is nan: this setting diverged"
                self._deliver(running, task, TicketState.DIVERGED, None, why)
            else:
                self._deliver(running, task, TicketState.PRUNED, running.last_report)
        except TogetherError as error:
            if error.need:
                self._failed(str(error), set_aside=error.need)
            else:
                self._finish(AttemptState.RELEASED, error=str(error))
        except BadValueError as error:
            self._failed(str(error))
        except NotAnObjectivesError as error:
            text = traceback.format_exc()
            print(text, file=sys.stderr)
            self._failed(str(error))
        except (DatabaseFaultError, ArtifactsAwayError):
            raise  # what it needs cannot be used; nobody's fault
        except BaseException as error:  # whatever it raises is its own doing, and recorded as what it is
            if self._is_own and isinstance(error, KeyboardInterrupt):
                raise
            self._raised(running, task, error)
        else:
            self._deliver(running, task, TicketState.COMPLETE, values)

    def _raised(self, running: RunningTrial, task: Task, error: BaseException) -> None:
        text = told(error)
        print(text, file=sys.stderr)
        if self.stop.signalled:  # a signal to the whole group ends data loaders and the like
            why = "a signal ended what the objective had started\n" + text
            self._finish(AttemptState.RELEASED, error=why)
        elif isinstance(error, ProgramKilledError):
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)  # as its objective was, and judged as such: lost, not failed
        elif self.boot.shared and not task.alone and devices.out_of_device_memory(error):
            self.needs_restart = True  # what this process still holds would be missing then
            self._failed(text, set_aside=Need.CARD)
        else:
            self.needs_restart = bool(getattr(error, "needs_restart", False))
            if says_diverged(error) or running.is_at_nan:  # after NaN, an error is but its consequence
                self._deliver(running, task, TicketState.DIVERGED, None, text)
            else:
                self._failed(text)

    def _deliver(
        self,
        running: RunningTrial,
        task: Task,
        state: TicketState,
        values: tuple[float, ...] | None,
        error: str | None = None,
    ) -> None:
        """Say the result; kept on disk when the database is away, until it is written.

        That a trial diverged is one like others, which samplers learn from, but of no value.

        Raises:
            CodeDiffersError: a result of other code came first; this one does not count.
        """
        peak = devices.peak_memory(self.boot.device)
        unsent = running.take_unsent()
        logged, constraints = running.metrics, running.constraints
        everything = {step: {**logged.get(step, {}), **unsent.get(step, {})} for step in {*logged, *unsent}}
        result = results.Finished(
            state, values, peak, everything, self.code, error, running.reports, constraints
        )
        is_kept = False

        def keep() -> None:
            nonlocal is_kept
            is_kept = True
            results.keep(self.store, task.folder, task.attempt, result)

        if state is TicketState.COMPLETE:
            results.keep_code(self.store, self.served.folder, self._unkept)
        try:
            self._say_at_last(
                keep,
                state=AttemptState(state.value),
                values=values,
                error=error,
                peak_memory=peak,
                metrics=unsent,
                weights=_weights(state, running.checkpoint.newest),
                constraints=constraints,
            )
        except CodeDiffersError:  # another attempt must not go on from them
            results.forget_trial(self.store, task.folder, task.attempt)
            raise
        except ValueError as refused:  # the database does not take a value of it
            self._failed(str(refused))
        if is_kept:
            results.remove(self.store, task.folder, task.attempt)

    def _delivered_kept(self, task: Task) -> bool:
        """Deliver what an earlier attempt had finished and could not; False when it had not."""
        between = range(task.delivered + 1, task.attempt)
        kept = results.find(self.store, task.folder, between, len(self.served.directions))
        if kept is None:
            return False
        self._taken_over(None, finished=True)
        newest = newest_readable(self.store, task.folder, task.attempt)
        try:
            said = {**vars(kept), "state": AttemptState(kept.state.value)}
            self.link.ask(partial(Finish, **said, weights=_weights(kept.state, newest)))
        except CodeDiffersError as error:
            log.warning("the result that was kept does not count, the trial begins anew: %s", error)
            results.forget_trial(self.store, task.folder, task.attempt)
            return False
        results.remove(self.store, task.folder, task.attempt)
        return True

    def _failed(self, error: str, *, set_aside: Need = Need.NOTHING) -> None:
        peak = devices.peak_memory(self.boot.device)
        self._finish(AttemptState.FAILED, error=error, peak_memory=peak, set_aside=set_aside)

    def _finish(self, state: AttemptState, **said: Any) -> None:
        """Say that the attempt ends without a result. That its lease is lost already changes nothing."""
        with suppress(LeaseLostError):
            self._say_at_last(lambda: None, state=state, **said)

    def _say_at_last(self, when_unheard: Callable[[], None], **said: Any) -> None:
        """Say how the attempt ends: the fields of `Finish`."""
        self.link.ask_at_last(partial(Finish, **said), when_unheard=when_unheard, after=KEEP_AFTER)


def find_objective(spec: Served | StudySpec, folder: Path) -> Objective:
    """The objective that a study names, imported; or its command. It takes the study's settings.

    Raises:
        ObjectiveError: it is not here, cannot be imported or run, or refuses the settings.
    """
    if spec.objective_path is None:
        from hpo.runner.command import command_objective  # and pydantic, which nobody else needs here

        return command_objective(spec.command or (), spec.study, len(spec.directions), folder)
    found = load_objective(spec.objective_path, folder)
    check_settings(found, spec)
    return found


def _weights(state: TicketState, newest: Saved | None) -> tuple[str, str, str, int] | None:
    """What a complete trial that kept no model leaves in its place."""
    if state is not TicketState.COMPLETE or newest is None:
        return None
    file = newest.as_kept_file()
    return file.name, file.path, file.sha256, file.size


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
