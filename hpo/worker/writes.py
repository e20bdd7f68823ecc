"""What a runner says, as writes: which rows, under which lease, and what follows when they are committed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from optuna.distributions import json_to_distribution

from hpo.runner import messages as said
from hpo.runner.values import check_attribute
from hpo.search.space import check_point
from hpo.spec.limits import breach
from hpo.studies import steering
from hpo.worker.desk import Desk, Held
from hpo.worker.events import Ended
from hpo.worker.study import ServedStudy
from storage.database.engine import Database, Transaction
from storage.database.records import RESULTS, AttemptState, Claim, KeptFile, StudyState, TicketState
from storage.files import kept_files
from storage.history.counted import counted
from storage.queue import attempts, optuna_rows, outcomes, rungs, studies
from storage.queue.attempts import Delivery, Entry, Report, Row, Write
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

    held: Held
    entries: tuple[Entry, ...] = ()
    then: Then | None = None
    message: said.Numbered | None = None  # what the runner said; None: it is the broker's own
    learn: Callable[[], None] = lambda: None  # keeps the study's history up, once it is committed
    answer: Any = None  # with ANSWER, where the write returns nothing
    params: Mapping[str, Any] | None = None  # with BEGIN
    read: Callable[[], Any] = lambda: None  # with READ
    act: Callable[[Transaction], Any] = lambda _connection: None  # with ACT
    end: Ended | None = None  # with END

    @property
    def desk(self) -> Desk:
        """Whose attempt it is."""
        return self.held.desk

    @property
    def is_asked(self) -> bool:
        """Whether a runner waits for the answer."""
        return isinstance(self.message, said.QUESTIONS)

    def answer_with(self, value: Any) -> None:
        """Answer the runner; an error is raised there."""
        assert self.message is not None
        self.desk.answer(self.message, value)


def of_message(held: Held, message: said.Numbered) -> Pending:
    """What a runner said of its attempt.

    Raises:
        ValueError: it may not say so.
    """
    if isinstance(message, said.Finish):
        return _end(held, message)
    if isinstance(message, said.TakeOver):
        return _take_over(held, message)
    if held.trial is None:
        raise ValueError(f"{type(message).__name__} before its trial has begun")
    return of_trial(held, message)


def of_trial(held: Held, message: said.Numbered) -> Pending:
    """What a runner said of a trial that has begun, but of its end."""
    study, lease, trial = held.desk.study, held.lease, held.stored
    pending = partial(Pending, held, message=message)
    its: Mapping[str, Any] = {"study_id": study.row.id, "trial_id": trial.id}
    match message:
        case said.Step(step=step, value=value, metrics=metrics):
            reached = _reached(held, step, study.reported_in(value, metrics))
            report = Report(lease, trial.id, step, value, metrics, reached)
            if value is None:
                return pending((report,))
            return pending((report,), learn=partial(study.reported, trial, step, value))
        case said.Parameter(name=name, value=number, distribution=distribution):
            return of_parameter(held, name, number, distribution, message)
        case said.Attribute(of=of, key=key, value=value_json):
            check_attribute(key, value_json, study.spec.limits.attribute)
            return of_attribute(held, of, key, value_json, message)
        case said.Suggest() if study.is_drawn:
            number = study.suggested_one(held, message.name, message.distribution)
            return of_parameter(held, message.name, number, message.distribution, message)
        case said.Suggest():
            return pending(then=Then.SUGGEST)
        case said.ShouldPrune():
            return pending(then=Then.PRUNE)
        case said.Sync():
            return pending(then=Then.ANSWER)
        case said.Advanced():
            return pending((Write(lease, partial(attempts.checkpoint_advanced, lease=lease)),))
        case said.FileStored(name=name, sha256=sha256, size=size):
            keep = partial(attempts.keep_stored_file, lease=lease, name=name, sha256=sha256, size=size)
            return pending((Write(lease, partial(keep, **its)),), then=Then.ANSWER)
        case said.FileKept():
            file = KeptFile(message.name, message.path, message.sha256, message.size)
            record = partial(kept_files.record, attempt=lease.attempt, file=file)
            return pending((Write(lease, partial(record, **its)),), then=Then.ANSWER)
        case said.ReadStudy(version=version):
            return pending(then=Then.READ, read=partial(study.newer_than, version))
        case said.ReadAttributes(of=of):
            read = partial(optuna_rows.study_attributes, optuna_study_id=study.row.optuna_study_id, of=of)
            return pending(then=Then.READ, read=lambda: study.database.read(read))
        case said.StopStudy():
            return pending(then=Then.ACT, act=partial(_stop, held))
        case said.EnqueuePoint(point=point):
            return pending(then=Then.ACT, act=partial(_enqueue, held, point))
    raise ValueError(f"{type(message).__name__} is nothing a trial says")


def _reached(
    held: Held, step: int, values: tuple[float, ...] | None
) -> Callable[[], tuple[int, Sequence[rungs.Rung]]] | None:
    """What finds the rungs that a report comes to, and what the pruner says of it, for when it is asked."""
    study = held.desk.study
    if values is None or not study.pruning.keeps_rungs:
        return None

    def found() -> tuple[int, Sequence[rungs.Rung]]:
        held.verdicts[step], reached = study.pruning.at_report(held, step, values)
        return study.row.id, reached

    return found


def _as_trial(held: Held) -> Database:
    return held.desk.study.database.acting_as(f"trial {held.stored.number}")


def _stop(held: Held, connection: Transaction) -> None:
    steering.set_state(connection, _as_trial(held), held.desk.study.row, "stop", StudyState.STOPPING)


def _enqueue(held: Held, point: Mapping[str, Any], connection: Transaction) -> int | None:
    study, database = held.desk.study, _as_trial(held)
    checked = check_point(study.spec, point)
    number = studies.enqueue(connection, study.row.id, checked, database.who or "")
    if number is not None:
        steering.note(connection, database, study.row, "enqueue", ticket=number, point=checked)
    return number


def of_parameter(
    held: Held, name: str, number: float, distribution_json: str, message: said.Numbered | None = None
) -> Pending:
    """A parameter that nobody declared; answered by its stored value where it was asked for."""
    wanted = json_to_distribution(distribution_json)
    its: Mapping[str, Any] = {"params": {name: wanted.to_external_repr(number)}}
    add = partial(optuna_rows.add_params, trial_id=held.stored.id, distributions={name: wanted}, **its)
    learn = partial(held.desk.study.has_parameter, held.stored, name, number, wanted)
    then = Then.ANSWER if isinstance(message, said.Suggest) else None
    return Pending(held, (Write(held.lease, add),), then, message, learn, number)


def of_attribute(
    held: Held, of: Owner, key: str, value_json: str, message: said.Numbered | None = None
) -> Pending:
    """An attribute of the trial or of its study."""
    json.loads(value_json)
    study, trial = held.desk.study, held.stored
    owner = study.row.optuna_study_id if of.startswith("study") else trial.id
    row = Row(held.lease, optuna_rows.set_attributes, (of, owner, key, value_json))
    learn = partial(study.has_attribute, trial, of, key, value_json)
    return Pending(held, (row,), None, message, learn)


def of_choice(held: Held, params: Mapping[str, Any], saw: Mapping[str, Any]) -> Pending:
    """A new trial at the point that was chosen."""
    verb = partial(start, desk=held.desk, claim=held.claim, params=params, saw=saw)
    return Pending(held, (Write(held.lease, verb),), Then.BEGIN, params=params)


def of_further(held: Held, params: Mapping[str, Any]) -> tuple[Write, ...]:
    """Parameters that a stored trial lacks."""
    if not params:
        return ()
    known: Mapping[str, Any] = {"params": params, "distributions": held.desk.study.distributions}
    return (Write(held.lease, partial(optuna_rows.add_params, trial_id=held.stored.id, **known)),)


def start(
    connection: Transaction, desk: Desk, claim: Claim, params: Mapping[str, Any], saw: Mapping[str, Any]
) -> Trial:
    """Store a new trial in a transaction that holds the claim's lease."""
    its = desk.study.row.optuna_study_id
    held = {name: desk.study.distributions[name] for name in params}
    trial = attempts.start_trial(connection, claim.lease, its, params, held, saw)
    _mark(connection, desk, [trial])
    return trial


def start_drawn(
    connection: Transaction, desk: Desk, drawn: Sequence[tuple[Claim, Mapping[str, Any]]]
) -> list[Trial]:
    """Store new trials of a runner at these points, in the transaction that has claimed them."""
    if not drawn:
        return []
    begun = [(claim.lease, params) for claim, params in drawn]
    its = desk.study.row.optuna_study_id
    trials = attempts.start_trials(connection, its, begun, desk.study.distributions, {})
    _mark(connection, desk, trials)
    return trials


def _mark(connection: Transaction, desk: Desk, trials: Sequence[Trial]) -> None:
    if desk.guard is not None:
        for trial in trials:
            desk.guard.mark(connection, trial.id)


def _take_over(held: Held, message: said.TakeOver) -> Pending:
    claim, guard = held.claim, held.desk.guard
    if claim.trial_id is None:
        raise ValueError("it takes over a trial that has not begun")
    held.steps.update(() if message.step is None else (message.step,))
    entries: list[Entry] = [Row(held.lease, attempts.take_over, (claim, message.step, message.finished))]
    if guard is not None and guard.marks:
        entries.append(Write(held.lease, partial(guard.mark, trial_id=claim.trial_id)))
    return Pending(held, tuple(entries), Then.GO_ON, message)


def _end(held: Held, message: said.Finish) -> Pending:
    """The attempt's last write."""
    is_parked, reached = _at_a_rung(held, message)
    write = partial(rungs.write, study_id=held.desk.study.row.id, reached=reached) if reached else None
    return end(held, message, write, is_parked=is_parked)


def end(
    held: Held, message: said.Finish, beside: Callable[[Transaction], None] | None, *, is_parked: bool = False
) -> Pending:
    """The last write of an attempt at a trial or a repeat; `beside`: writes more with a result.

    Raises:
        ValueError: it cannot end so.
    """
    lease, state = held.lease, message.state
    error = None if message.error is None else storable(message.error)
    values = None if message.values is None else tuple(message.values)
    entry: Write | Delivery
    if state in RESULTS:
        if held.error is not None:
            raise held.error
        state = AttemptState.PARKED if is_parked else state
        entry = _result(held, message, TicketState(state.value), values, error, beside)
    elif state is AttemptState.FAILED:
        fail = partial(outcomes.set_aside, need=message.set_aside) if message.set_aside else outcomes.fail
        how: Mapping[str, Any] = {"error": error or "it failed", "peak_memory": message.peak_memory}
        entry = Write(lease, partial(fail, lease=lease, **how), ends=state)
    elif state is AttemptState.RELEASED:
        why = error or "drained"
        entry = Write(lease, partial(outcomes.release, lease=lease, why=why), ends=state)
    else:
        raise ValueError(f"an attempt cannot end as {state}")
    ended = Ended(lease, state, values, None if is_parked else error, message.set_aside)
    return Pending(held, (entry,), Then.END, message, end=ended)


def _at_a_rung(held: Held, message: said.Finish) -> tuple[bool, list[rungs.Rung]]:
    """Whether a trial that raised TrialPruned is parked, and rungs that were not written yet.

    It is where the pruner had told it to stop. A result that was kept does not say so; its reports do.
    """
    study, trial = held.desk.study, held.trial
    parking = study.pruning.parking
    if parking is None or trial is None or message.state not in (AttemptState.COMPLETE, AttemptState.PRUNED):
        return False, []
    pruned = message.state is AttemptState.PRUNED
    said = {
        step: values
        for step in message.reports or message.metrics
        if (values := study.reported_in(message.reports.get(step), message.metrics.get(step, {})))
    }
    if not said:
        return pruned and held.is_stopped, []
    stops, reached = parking.at_reports(held.claim, trial.id, said)
    return pruned and stops, reached


def _result(
    held: Held,
    message: said.Finish,
    state: TicketState,
    values: tuple[float, ...] | None,
    error: str | None,
    beside: Callable[[Transaction], None] | None,
) -> Delivery:
    trial, study, guard = held.trial, held.desk.study, held.desk.guard
    if trial is None or guard is None:
        raise ValueError("a result before its trial has begun")
    _check_values(state, values, len(study.row.spec["directions"]))
    steps = sorted({*message.reports, *message.metrics}) if trial.id > 0 else ()
    found, named = message.reports, message.metrics
    return Delivery(
        held.lease,
        trial_id=trial.id,
        state=state,
        values=values,
        peak_memory=message.peak_memory,
        error=error,
        reports=[Report(held.lease, trial.id, at, found.get(at), named.get(at, {})) for at in steps],
        beside=beside,
        constraints=partial(_constraints, study=study, trial=trial, message=message),
        weights=None if message.weights is None else (study.row.id, KeptFile(*message.weights)),
        agree=lambda connection: guard.agree(connection, trial.id, state, message.code),
        agrees_as=None if message.code is not None else (guard, state is TicketState.COMPLETE),
    )


def _constraints(
    connection: Transaction, study: ServedStudy, trial: Trial, message: said.Finish
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
