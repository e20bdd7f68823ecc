"""Create a study, or continue the one that the same spec already has; give it more budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import optuna
from optuna.trial import FrozenTrial, create_trial

from hpo.errors import UserError
from hpo.search.auto import as_stored, chosen
from hpo.search.space import check_point, distribution, grid_points
from hpo.settings import Settings
from hpo.spec import Budget, StudySpec, spec_differences
from hpo.spec.sections import MAX_EPOCHS, MAX_TRIALS
from hpo.studies.steering import how_to_go_on, note
from hpo.studies.warm_start import WarmStart
from storage.database.engine import Database, Transaction
from storage.database.errors import StudyExistsError, UnknownStudyError
from storage.database.records import StudyRow, StudyState
from storage.files.artifacts import ArtifactStore
from storage.history.records import StudyHistory
from storage.queue import notices, optuna_rows, outcomes, studies, tickets, tokens
from storage.queue import seconds as seconds_of
from storage.queue.events import operator

MAX_REASON = 2000  # characters


class Budgets(TypedDict, total=False):
    """New budgets of a study, each in all; None: as it was."""

    seconds: float | None
    target: float | None
    epochs: int | None
    patience: int | None


def create(
    database: Database,
    spec: StudySpec,
    settings: Settings,
    warm: WarmStart | None = None,
    history: Sequence[FrozenTrial] = (),
) -> StudyRow:
    """Store a new study with its tickets: as many as its budget of trials, or a grid's cells.

    What the spec leaves open is chosen now. Points to try first are the spec's own, then those of `warm`.
    With a `history` (trials that ended elsewhere) its trials are the study's budget, and it is finished.

    Raises:
        UserError: the name is taken.
        BadArtifactUrlError: the artifact store cannot be used.
    """
    spec = chosen(spec)
    taken = () if warm is None else warm.points
    points = [] if history else _points(spec, taken)
    ArtifactStore(settings.artifact_url())  # a store that cannot be used is told before the first trial
    new = studies.NewStudy(
        name=spec.study,
        directions=spec.directions,
        spec=spec.model_dump(mode="json"),
        digest=spec.digest,
        seed=spec.sampler.seed,
        points=points,
        cells=spec.sampler.name == "grid",
        enqueued=0 if history else len(spec.enqueue) + len(taken),
        budget_trials=len(history) or (None if spec.tickets is None else len(points)),
        budget_seconds=spec.budget.seconds,
        budget_target=spec.budget.target,
        budget_epochs=spec.search_epochs,
        budget_patience=spec.budget.patience,
        retry_lost=spec.retry.lost,
        retry_failed=spec.retry.failed,
        artifacts=settings.artifact_url(),
        prior=None if warm is None else warm.prior,
    )
    return studies.create(database, new, history)


def create_or_continue(
    database: Database, spec: StudySpec, settings: Settings, warm: WarmStart | None = None
) -> tuple[StudyRow, bool]:
    """The study of this spec, and whether it was created now. Two at once get the same study.

    Raises:
        UserError: another spec has this name; the differences are listed. Or the study exists and
            cannot take a `warm` start any more.
    """
    row = find(database, spec.study)
    if row is not None and warm is not None:
        raise UserError(f"{spec.study} exists already; --from counts only when a study is made")
    if row is None:
        try:
            return create(database, spec, settings, warm), True
        except StudyExistsError:
            row = find(database, spec.study)
            if row is None:
                raise
    spec = as_stored(spec, StudySpec.model_validate(row.spec))
    _demand_same(spec, row)
    return _with_newest_of(spec, database, row), False


def create_or_extend(
    database: Database, spec: StudySpec, settings: Settings
) -> tuple[StudyRow, bool, int | None]:
    """The study of `spec`, which says how many trials it has in all; whether it was created now; and how many
    of them are to be run, None: all.

    A study that is there already is given as many more as it lacks, and none are taken from it.

    Raises:
        UserError: another spec has this name.
    """
    wanted = spec.tickets or 0
    row = find(database, spec.study)
    if row is not None:
        spec = spec.model_copy(update={"budget": Budget.model_validate(row.spec["budget"])})
    row, created = create_or_continue(database, spec, settings)
    if created or wanted == row.budget_trials:
        return row, created, None
    if row.budget_trials is not None and wanted > row.budget_trials:
        return extend(database, row, trials=wanted - row.budget_trials), created, None
    return row, created, max(0, wanted - tickets_ended(database, row))


def find(database: Database, name: str) -> StudyRow | None:
    """The study of that name, or None."""
    try:
        return database.read(studies.get, name)
    except UnknownStudyError:
        return None


def enqueue(
    database: Database, row: StudyRow, point: Mapping[str, Any], by: str | None = None, why: str | None = None
) -> tuple[int, str]:
    """Have a point tried next; returns its ticket's number, and what must be done before, if anything.

    The budget stays exact. `by`, who proposes it (default: who acts), and `why` stay with the trial.

    Raises:
        SpecError: the point does not fit the space.
        UserError: every ticket is taken, or the study has ended for want of budget; too long a reason.
        LimitError: as many points came from outside as its `proposals` allow.
    """
    for name, said, most in (("by", by, 200), ("why", why, MAX_REASON)):
        if said is not None and not (len(said.strip()) > 0 and len(said) <= most and "\0" not in said):
            raise UserError(f"{name} must have 1 to {most} characters, got {len(said)}")
    spec = StudySpec.model_validate(row.spec)
    if spec.sampler.name == "grid":
        raise UserError(f"{row.name} is a grid; it visits every cell anyway")
    checked = check_point(spec, point)

    def verb(connection: Transaction) -> int | None:
        given = studies.enqueue(connection, row.id, checked, by or database.who or operator(), why)
        if given is not None:
            note(connection, database, row, "enqueue", ticket=given, point=checked, by=by, why=why)
        return given

    number = database.write_once(verb)
    now = database.read(studies.get, row.name)
    if number is None and now.ended_why in (
        outcomes.TARGET_REACHED,
        outcomes.SECONDS_SPENT,
        outcomes.PATIENCE_SPENT,
    ):
        raise UserError(
            f"{row.name} is {now.state} ({now.ended_why}), so nobody would try it; first {how_to_go_on(now)}"
        )
    if number is None:
        raise UserError(
            f"every trial of {row.name} is spent or taken; first run `hpo extend {row.name} --trials +1`"
        )
    runs = now.state is StudyState.RUNNING
    return number, "" if runs else f", once it goes on: it is {now.state}, and {how_to_go_on(now)}"


def add_trial(
    database: Database,
    history: StudyHistory,
    params: Mapping[str, Any],
    value: float | Sequence[float],
    user_attrs: Mapping[str, Any],
) -> None:
    """Give a study a completed trial that came about elsewhere; no ticket is behind it.

    Raises:
        UserError: the point does not fit the space, or nothing says what a parameter's range is.
    """
    known = {name: one for trial in history.trials for name, one in trial.distributions.items()}
    known |= {name: distribution(one) for name, one in StudySpec.model_validate(history.spec).space.items()}
    unknown = [name for name in params if name not in known]
    if unknown:
        raise UserError(f"no trial of {history.name} has a parameter {unknown[0]!r} yet, nor has its space")
    try:
        trial = create_trial(
            params=dict(params),
            distributions={name: known[name] for name in params},
            values=[value] if isinstance(value, int | float) else list(value),
            user_attrs=dict(user_attrs),
            system_attrs={optuna_rows.ADDED: True},
        )
        optuna.load_study(study_name=history.name, storage=database.rdb).add_trial(trial)
    except ValueError as error:
        raise UserError(f"{history.name} cannot take this trial: {error}") from error


def extend(database: Database, row: StudyRow, *, trials: int = 0, **budgets: Unpack[Budgets]) -> StudyRow:
    """Give a study `trials` more tickets, or a new budget of seconds or epochs, a new target or patience.

    A study that had ended runs again, unless a result meets its target, or its seconds, epochs or patience
    are spent all the same.

    Raises:
        UserError: a grid has no further cells, or nothing is asked, or too much.
    """
    seconds, target = budgets.get("seconds"), budgets.get("target")
    epochs, patience = budgets.get("epochs"), budgets.get("patience")
    if trials > MAX_TRIALS:
        raise UserError(f"at most {MAX_TRIALS:,} trials can be added at once, got {trials:,}")
    if trials <= 0 and seconds is target is epochs is patience is None:
        raise UserError(
            "say what to extend: --trials +50, --seconds 7200, --epochs 2000, --target 0.99 or --patience 60"
        )
    for what, had, wanted, most in (
        ("patience", row.budget_patience, patience, MAX_TRIALS),
        ("epochs", row.budget_epochs, epochs, MAX_EPOCHS),
    ):
        if wanted is not None and (had is None or not had < wanted <= most):
            told = "none" if had is None else f"{had:,}"
            raise UserError(f"--{what} must be above the study's, which is {told}, got {wanted:,}")
    spec = StudySpec.model_validate(row.spec)
    used = database.read(seconds_of.used, row)
    if seconds is not None and not (math.isfinite(seconds) and seconds > used):
        raise UserError(f"--seconds must be above the {used:.0f} used so far, got {seconds:g}")
    if target is not None and not math.isfinite(target):
        raise UserError(f"--target must be a finite number, got {target:g}")
    if target is not None and len(spec.directions) > 1:
        raise UserError("a target needs a single direction")
    found = database.read(tickets.counts, row.id)
    spent = row.budget_trials is not None and found.waiting + found.running + found.parked == 0
    if trials <= 0 and spent:
        raise UserError(f"every trial of {row.name} is spent; add some: `hpo extend {row.name} --trials +N`")
    points: list[Mapping[str, Any] | None] = [None] * max(trials, 0)
    cells = spec.sampler.name == "grid"
    if trials > 0 and row.budget_trials is None:
        raise UserError(f"{row.name} has no budget of trials; extend its seconds or target")
    if trials > 0 and cells:
        unlimited = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": None})})
        rest = grid_points(unlimited, skip=row.budget_trials or 0)
        if len(rest) < trials:
            raise UserError(f"the grid of {row.name} has {len(rest)} cells left, fewer than {trials}")
        points = list(rest[:trials])
    first = row.budget_trials if cells and trials > 0 else None

    def verb(connection: Transaction) -> bool:
        done = studies.extend(connection, row.id, points, cells=cells, first=first, **budgets)
        if done:
            tokens.charge(
                connection,
                database.token,
                trials=max(trials, 0),
                epochs=0 if epochs is None else epochs - (row.budget_epochs or 0),
                seconds=0 if seconds is None else max(0.0, seconds - (row.budget_seconds or 0.0)),
            )
            note(connection, database, row, "extend", trials=trials if trials > 0 else None, **budgets)
        return done

    done = database.write_once(verb)
    now = database.read(studies.get, row.name)
    # Somebody extended the grid meanwhile: the cells that are left are others now.
    return now if done else extend(database, now, trials=trials, **budgets)


def standing(row: StudyRow) -> str:
    """What an extension has led to, as a sentence."""
    total = "no limit of trials" if row.budget_trials is None else f"{row.budget_trials} trials"
    why = f" ({row.ended_why}); {how_to_go_on(row)}" if row.ended_why else ""
    return f"{row.name} is {row.state} with {total}{why}"


def tickets_ended(database: Database, row: StudyRow) -> int:
    """How many tickets are finished, or given up."""
    return database.read(tickets.counts, row.id).ended


def _with_newest_of(spec: StudySpec, database: Database, row: StudyRow) -> StudyRow:
    """What a study keeps, may use and confirms can change at any time; the newest file says it. What is gone
    stays gone.
    """
    newest = spec.model_dump(mode="json", include={"keep", "limits", "confirm", "notify", "proposals"})
    changes = {
        name: value
        for name, value in newest.items()
        if row.spec.get(name, [] if name == "notify" else None) != value
    }
    if not changes:
        return row
    stored = StudySpec.model_validate(row.spec)
    if spec.confirm is not None and spec.confirm.in_budget and spec.confirm != stored.confirm:
        raise UserError(
            f"{row.name} exists, and the epochs of its search are decided: confirm.in_budget can be neither "
            "added nor changed. Without it the trainings come on top of the budget; or give the study "
            "another name (--set study=...)"
        )

    def verb(connection: Transaction) -> None:
        studies.remember(connection, row.id, "spec", {**row.spec, **changes})
        note(connection, database, row, "change", **changes)
        if "notify" in changes:
            notices.settle(connection, row.id, changes["notify"])

    database.write_once(verb)
    return database.read(studies.get, row.name)


def _points(spec: StudySpec, taken: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any] | None]:
    if spec.sampler.name == "grid":
        return list(grid_points(spec))
    first = [*spec.enqueue, *taken]
    return [*first, *([None] * max((spec.tickets or 0) - len(first), 0))]


def _demand_same(spec: StudySpec, row: StudyRow) -> None:
    stored = StudySpec.model_validate(row.spec)
    differences = spec_differences(spec, stored)
    if spec.digest != row.digest:
        raise UserError(
            f"another study named {spec.study} is in this database:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\nGive this one another name (--set study=...), or remove the other with "
            f"`hpo delete {spec.study}`"
        )
    asked, at_first = spec.budget.model_dump(), stored.budget.model_dump()
    now = {name: getattr(row, f"budget_{name}") for name in asked}
    if asked not in (at_first, now):
        raise UserError(
            f"{spec.study} exists with another budget:\n"
            + "\n".join(
                f"  budget.{name}: {asked[name]} here, {now[name]} in the stored study"
                for name in now
                if asked[name] != now[name]
            )
            + f"\nUse `hpo extend {spec.study} --trials +N` to give it more"
        )
