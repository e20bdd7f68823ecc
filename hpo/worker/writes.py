"""What a runner says, as writes: which rows, under which lease, and what follows when they are committed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from optuna.distributions import json_to_distribution

from hpo.runner.messages import (
    QUESTIONS,
    Advanced,
    Attribute,
    EnqueuePoint,
    FileKept,
    FileStored,
    Finish,
    Numbered,
    Parameter,
    ReadAttributes,
    ReadStudy,
    ShouldPrune,
    Step,
    StopStudy,
    Suggest,
    Sync,
    TakeOver,
)
from hpo.runner.values import check_attribute
from hpo.spec.limits import breach
from hpo.studies import steering
from hpo.worker.desk import Desk
from hpo.worker.events import Ended
from hpo.worker.study import Held, ServedStudy
from storage.database.clock import Clock
from storage.database.engine import Database, Transaction
from storage.database.records import RESULTS, AttemptState, Claim, KeptFile, StudyState, TicketState
from storage.files import kept_files
from storage.history.counted import counted
from storage.queue import attempts, optuna_rows, outcomes, rungs, studies
from storage.queue.attempts import Report, Write
from storage.queue.optuna_rows import Owner, Trial


class Then(Enum):
    """What follows when a write is committed."""

    ANSWER = auto()  # the runner is told what the write returned
    BEGIN = auto()  # a new trial is stored: it runs
    GO_ON = auto()  # an earlier attempt's trial is taken over: its parameters are completed, and it runs
    RUN = auto()  # ... and it has them
    PRUNE = auto()  # the pruner is asked
    SUGGEST = auto()  # the sampler is asked
    READ = auto()  # something is read that takes long
    ACT = auto()  # something is done to the study, once
    END = auto()  # the attempt is over


@dataclass(frozen=True)
class Pending:
    """Something to be written for an attempt, and what for."""

    desk: Desk
    held: Held
    entries: tuple[Report | Write, ...] = ()
    then: Then | None = None
    message: Numbered | None = None  # what the runner said; None: it is the broker's own
    learn: Callable[[], None] = lambda: None  # keeps the study's history up, once it is committed
    answer: Any = None  # with ANSWER, where the write returns nothing
    params: Mapping[str, Any] | None = None  # with BEGIN
    read: Callable[[], Any] = lambda: None  # with READ
    act: Callable[[Transaction], Any] = lambda _connection: None  # with ACT
    end: Ended | None = None  # with END

    @property
    def is_asked(self) -> bool:
        """Whether a runner waits for the answer."""
        return isinstance(self.message, QUESTIONS)

    def answer_with(self, value: Any) -> None:
        """Answer the runner; an error is raised there."""
        assert self.message is not None
        self.desk.answer(self.message, value)


def of_message(database: Database, desk: Desk, held: Held, message: Numbered) -> Pending:
    """What a runner said of its attempt.

    Raises:
        ValueError: it may not say so.
    """
    if isinstance(message, Finish):
        return _end(database, desk, held, message)
    if isinstance(message, TakeOver):
        return _take_over(desk, held, message)
    trial = held.trial
    if trial is None:
        raise ValueError(f"{type(message).__name__} before its trial has begun")
    return of_trial(database, desk, held, trial, message)


def of_trial(database: Database, desk: Desk, held: Held, trial: Trial, message: Numbered) -> Pending:
    """What a runner said of a trial that has begun, but of its end."""
    study, lease, clock = desk.study, held.lease, database.clock
    pending = partial(Pending, desk, held, message=message)
    match message:
        case Step(step=step, value=value, metrics=metrics):
            report = Report(lease, trial.id, step, value, metrics)
            if value is None:
                return pending((report,))
            entries: list[Report | Write] = [report, *_rungs(desk, held, trial, step, value, clock)]
            return pending(tuple(entries), learn=partial(study.reported, trial, step, value))
        case Parameter(name=name, value=number, distribution=distribution):
            return of_parameter(desk, held, trial, name, number, distribution, message)
        case Attribute(of=of, key=key, value=value_json):
            check_attribute(key, value_json, study.spec.limits.attribute)
            return of_attribute(desk, held, trial, of, key, value_json, message)
        case Suggest() if study.is_drawn:
            number = study.suggested_one(held, trial, message.name, message.distribution)
            return of_parameter(desk, held, trial, message.name, number, message.distribution, message)
        case Suggest():
            return pending(then=Then.SUGGEST)
        case ShouldPrune():
            return pending(then=Then.PRUNE)
        case Sync():
            return pending(then=Then.ANSWER)
        case Advanced():
            return pending((Write(lease, partial(attempts.checkpoint_advanced, lease=lease)),))
        case FileStored():
            keep: Callable[[Transaction], Any] = partial(
                attempts.keep_stored_file,
                clock=clock,
                study_id=study.row.id,
                trial_id=trial.id,
                lease=lease,
                name=message.name,
                sha256=message.sha256,
                size=message.size,
            )
            return pending((Write(lease, keep),), then=Then.ANSWER)
        case FileKept():
            file = KeptFile(message.name, message.path, message.sha256, message.size)
            keep = partial(
                kept_files.record,
                clock=clock,
                study_id=study.row.id,
                trial_id=trial.id,
                attempt=lease.attempt,
                file=file,
            )
            return pending((Write(lease, keep),), then=Then.ANSWER)
        case ReadStudy(version=version):
            return pending(then=Then.READ, read=partial(study.newer_than, version))
        case ReadAttributes(of=of):
            read = partial(optuna_rows.study_attributes, optuna_study_id=study.row.optuna_study_id, of=of)
            return pending(then=Then.READ, read=lambda: database.read(read))
        case StopStudy():
            return pending(then=Then.ACT, act=partial(_stop, _as_trial(database, trial), study))
        case EnqueuePoint(point=point):
            return pending(then=Then.ACT, act=partial(_enqueue, _as_trial(database, trial), study, point))
    raise ValueError(f"{type(message).__name__} is nothing a trial says")


def _rungs(desk: Desk, held: Held, trial: Trial, step: int, value: float, clock: Clock) -> Iterator[Write]:
    """The rungs that a report comes to, and what the pruner says of it, for when it is asked."""
    study = desk.study

    def verb(connection: Transaction) -> None:
        held.verdicts[step], reached = study.at_report(held, trial, step, value)
        rungs.write(connection, clock, study.row.id, reached)

    if study.keeps_rungs:
        yield Write(held.lease, verb)


def _as_trial(database: Database, trial: Trial) -> Database:
    return database.acting_as(f"trial {trial.number}")


def _stop(database: Database, study: ServedStudy, connection: Transaction) -> None:
    steering.set_state(connection, database, study.row, "stop", StudyState.STOPPING)


def _enqueue(
    database: Database, study: ServedStudy, point: Mapping[str, Any], connection: Transaction
) -> int | None:
    checked = study.checked(point)
    number = studies.enqueue(connection, study.row.id, checked, database.who or "")
    if number is not None:
        steering.note(connection, database, study.row, "enqueue", ticket=number, point=checked)
    return number


def of_parameter(
    desk: Desk,
    held: Held,
    trial: Trial,
    name: str,
    number: float,
    distribution_json: str,
    message: Numbered | None = None,
) -> Pending:
    """A parameter that nobody declared; answered by its stored value where it was asked for."""
    wanted = json_to_distribution(distribution_json)
    add = partial(
        attempts.add_params,
        trial_id=trial.id,
        params={name: wanted.to_external_repr(number)},
        distributions={name: wanted},
    )
    return Pending(
        desk,
        held,
        (Write(held.lease, add),),
        Then.ANSWER if isinstance(message, Suggest) else None,
        message,
        learn=partial(desk.study.has_parameter, trial, name, number, wanted),
        answer=number,
    )


def of_attribute(
    desk: Desk,
    held: Held,
    trial: Trial,
    of: Owner,
    key: str,
    value_json: str,
    message: Numbered | None = None,
) -> Pending:
    """An attribute of the trial or of its study."""
    json.loads(value_json)
    owner = desk.study.row.optuna_study_id if of.startswith("study") else trial.id
    verb = partial(optuna_rows.set_attribute, of=of, owner_id=owner, key=key, value_json=value_json)
    learn = partial(desk.study.has_attribute, trial, of, key, value_json)
    return Pending(desk, held, (Write(held.lease, verb),), None, message, learn)


def of_choice(desk: Desk, held: Held, params: Mapping[str, Any], saw: Mapping[str, Any]) -> Pending:
    """A new trial at the point that was chosen."""
    verb = partial(start, desk=desk, claim=held.claim, params=params, saw=saw)
    return Pending(desk, held, (Write(held.lease, verb),), Then.BEGIN, params=params)


def of_further(desk: Desk, held: Held, trial: Trial, params: Mapping[str, Any]) -> tuple[Write, ...]:
    """Parameters that a stored trial lacks."""
    if not params:
        return ()
    add = partial(
        attempts.add_params, trial_id=trial.id, params=params, distributions=desk.study.distributions
    )
    return (Write(held.lease, add),)


def start(
    connection: Transaction,
    desk: Desk,
    claim: Claim,
    params: Mapping[str, Any],
    saw: Mapping[str, Any],
    *,
    is_new: bool = False,
) -> Trial:
    """Store a new trial in a transaction that holds the claim's lease; `is_new`: that has claimed it, too."""
    study = desk.study
    held = {name: study.distributions[name] for name in params}
    its = study.row.optuna_study_id
    trial = attempts.start_trial(connection, claim.lease, its, params, held, saw, is_new=is_new)
    if desk.guard is not None:
        desk.guard.mark(connection, trial.id)
    return trial


def _take_over(desk: Desk, held: Held, message: TakeOver) -> Pending:
    claim = held.claim
    if claim.trial_id is None or claim.trial_number is None:
        raise ValueError("it takes over a trial that has not begun")
    trial = Trial(claim.trial_id, claim.trial_number)

    def verb(connection: Transaction) -> None:
        attempts.take_over(connection, claim, message.step, keep_reports=message.finished)
        if desk.guard is not None:
            desk.guard.mark(connection, trial.id)

    return Pending(desk, held, (Write(held.lease, verb),), Then.GO_ON, message)


def _end(database: Database, desk: Desk, held: Held, message: Finish) -> Pending:
    """The attempt's last write."""
    is_parked, reached = _at_a_rung(desk, held, message)
    write = partial(rungs.write, clock=database.clock, study_id=desk.study.row.id, reached=reached)
    return end(database, desk, held, message, write, is_parked=is_parked)


def end(
    database: Database,
    desk: Desk,
    held: Held,
    message: Finish,
    beside: Callable[[Transaction], None],
    *,
    is_parked: bool = False,
) -> Pending:
    """The last write of an attempt at a trial or a repeat; `beside`: writes more with a result.

    Raises:
        ValueError: it cannot end so.
    """
    lease, clock, state = held.lease, database.clock, message.state
    error = None if message.error is None else storable(message.error)
    values = None if message.values is None else tuple(message.values)
    verb: Callable[[Transaction], Any]
    if state in RESULTS:
        if held.error is not None:
            raise held.error
        state = AttemptState.PARKED if is_parked else state
        verb = _result(database, desk, held, message, TicketState(state.value), values, error, beside)
    elif state is AttemptState.FAILED:
        fail = partial(outcomes.set_aside, need=message.set_aside) if message.set_aside else outcomes.fail
        verb = partial(
            fail, clock=clock, lease=lease, error=error or "it failed", peak_memory=message.peak_memory
        )
    elif state is AttemptState.RELEASED:
        verb = partial(outcomes.release, clock=clock, lease=lease, why=error or "drained")
    else:
        raise ValueError(f"an attempt cannot end as {state}")
    ended = Ended(lease, state, values, None if is_parked else error, message.set_aside)
    return Pending(desk, held, (Write(lease, verb, ends=state),), Then.END, message, end=ended)


def _at_a_rung(desk: Desk, held: Held, message: Finish) -> tuple[bool, list[rungs.Rung]]:
    """Whether a trial that raised TrialPruned is parked, and rungs that were not written yet.

    It is where the pruner had told it to stop. A result that was kept does not say so; its reports do.
    """
    parking, trial = desk.study.parking, held.trial
    if parking is None or trial is None or message.state not in (AttemptState.COMPLETE, AttemptState.PRUNED):
        return False, []
    pruned = message.state is AttemptState.PRUNED
    if not message.reports:
        return pruned and held.is_stopped, []
    stops, reached = parking.at_reports(held.claim, trial.id, message.reports)
    return pruned and stops, reached


def _result(
    database: Database,
    desk: Desk,
    held: Held,
    message: Finish,
    state: TicketState,
    values: tuple[float, ...] | None,
    error: str | None,
    beside: Callable[[Transaction], None],
) -> Callable[[Transaction], Any]:
    trial, study, guard = held.trial, desk.study, desk.guard
    if trial is None or guard is None:
        raise ValueError("a result before its trial has begun")
    _check_values(state, values, len(study.row.spec["directions"]))
    steps = sorted({*message.reports, *message.metrics}) if trial.id > 0 else ()
    return partial(
        attempts.deliver,
        clock=database.clock,
        lease=held.lease,
        trial_id=trial.id,
        state=state,
        values=values,
        peak_memory=message.peak_memory,
        error=error,
        reports=[
            Report(held.lease, trial.id, step, message.reports.get(step), message.metrics.get(step, {}))
            for step in steps
        ],
        beside=beside,
        constraints=partial(_constraints, study=study, trial=trial, message=message),
        weights=None if message.weights is None else (study.row.id, KeptFile(*message.weights)),
        agree=lambda connection: guard.agree(connection, trial.id, state, message.code),
    )


def _constraints(
    connection: Transaction, study: ServedStudy, trial: Trial, message: Finish
) -> dict[str, float]:
    """What the objective set, and what the study file says of the metrics that it logged."""
    limits = study.spec.constraints
    if not limits:
        return message.constraints
    found = counted(connection, trial.id, limits, message.values)
    return message.constraints | {name: breach(limit, found[name]) for name, limit in limits.items()}


def _check_values(state: TicketState, values: tuple[float, ...] | None, directions: int) -> None:
    if state is TicketState.COMPLETE:
        fits = values is not None and len(values) == directions and not any(map(math.isnan, values))
    elif state in (TicketState.PRUNED, TicketState.PARKED):
        fits = values is None or len(values) == 1
    else:
        fits = values is None
    if not fits:
        raise ValueError(f"{values} is no result of a trial that is {state}")


def storable(text: str) -> str:
    """The text in characters that a database takes: no NUL, no half ones, which undecodable names have."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def shortened(error: Exception) -> str:
    """The first line of an error, without the SQL that a driver's message quotes."""
    text = str(getattr(error, "orig", None) or error).strip()
    return (text.splitlines() or [type(error).__name__])[0][:300]
