"""From Python: `hpo.load("digits-mlp")` and `hpo.create(spec)`, with the verbs of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import UserError
from hpo.settings import Settings
from hpo.spec import StudySpec, load_spec, parse_spec
from hpo.studies import answers, creation, reading, steering, tables
from hpo.studies.evaluation import evaluate
from hpo.studies.warm_start import warm_start
from hpo.wiring import open_storage, speaking, telling
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.history.audit import Audit, audit
from storage.history.records import StudyHistory, TrialRecord

if TYPE_CHECKING:
    import optuna
    import pandas as pd


@speaking
class Study:
    """One stored study. Everything is read from the database when asked for, so it is never stale."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self.name = name
        self._row()  # raises when there is no such study

    def __repr__(self) -> str:
        return f"<hpo.Study {self.name!r} in {self._database.shown_url}>"

    def _row(self) -> StudyRow:
        return reading.get_study(self._database, self.name)

    @property
    def state(self) -> str:
        """running, paused, stopping, stopped or finished."""
        return self._row().state.value

    @property
    def spec(self) -> StudySpec:
        """The study file as validated."""
        return StudySpec.model_validate(self._row().spec)

    @property
    def optuna(self) -> optuna.Study:
        """The Optuna study underneath, to read; writing to it goes past the budget."""
        import optuna

        return optuna.load_study(study_name=self.name, storage=self._database.rdb)

    def history(self) -> StudyHistory:
        """All trials as frozen records."""
        return reading.history(self._database, self.name)

    def show(self) -> dict[str, Any]:
        """State, budget, counts and best, as `hpo show --format json` prints them."""
        database, name = self._database, self._row().name
        found = database.read(lambda connection: answers.study_detail(connection, database, name))
        return dict(answers.plain(found))

    def trials(self) -> pd.DataFrame:
        """One row a trial."""
        import pandas as pd

        return pd.DataFrame(tables.flat_rows(self.history()))

    @property
    def best(self) -> TrialRecord | None:
        """The best completed trial; None while there is none.

        Raises:
            UserError: the study has several directions; use `pareto`.
        """
        history = self.history()
        if len(history.directions) > 1:
            raise UserError(f"{self.name} has several directions; its best trials are in .pareto")
        return history.best

    @property
    def pareto(self) -> list[TrialRecord]:
        """Completed trials that no other beats in every direction."""
        return list(self.history().winners)

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the report (default: `report-NAME.html` here); returns its path."""
        from hpo.report.page import write_report

        return write_report([self.history()], path or f"report-{self.name}.html", written=datetime.now(UTC))

    def evaluate(self, code: str | os.PathLike[str] = ".") -> Mapping[str, Any] | None:
        """The winner on the test set, measured once."""
        return evaluate(self._database, self._row(), Path(code))

    def audit(self) -> Audit:
        """Whether the invariants held, from the database."""
        row = self._row()
        return self._database.read(lambda connection: audit(connection, row))

    def enqueue(self, point: Mapping[str, Any]) -> int:
        """Have a point tried next; returns its ticket's number."""
        return creation.enqueue(self._database, self._row(), point)[0]

    def extend(self, *, trials: int = 0, seconds: float | None = None, target: float | None = None) -> None:
        """More trials, or another budget of seconds or target."""
        creation.extend(self._database, self._row(), trials=trials, seconds=seconds, target=target)

    def pause(self) -> None:
        """Start nothing new; what runs goes on."""
        steering.pause(self._database, self._row())

    def resume(self) -> None:
        """Go on after a pause or a stop."""
        steering.resume(self._database, self._row())

    def stop(self) -> None:
        """Finish what runs, then end."""
        steering.stop(self._database, self._row())

    def cancel(self) -> int:
        """End now, running trials too; returns how many ran."""
        return steering.cancel(self._database, self._row())

    def retry(self) -> int:
        """Queue failed trials again, but none that diverged; returns how many."""
        return steering.retry_failed(self._database, self._row())

    def delete(self) -> None:
        """Delete the study, its trials and its artifacts."""
        steering.delete(self._database, self._row())


def load(name: str, storage: str | None = None) -> Study:
    """A stored study by name.

    Args:
        name: the study's name.
        storage: SQLAlchemy URL; default: HPO_STORAGE, else `sqlite:///hpo.db` here.

    Raises:
        NotFoundError, DatabaseError, UserError
    """
    with telling():
        return Study(open_storage(Settings.from_environment(storage), create=False), name)


def create(
    spec: StudySpec | Mapping[str, Any] | str | os.PathLike[str],
    storage: str | None = None,
    *,
    from_study: str | None = None,
    top: int = 3,
) -> Study:
    """Store a study (or find the one this very spec has): a study file, a mapping of its form, or a spec.

    Nothing runs until a worker joins: `hpo worker NAME`, or `hpo run` with the same file. A new study
    may start from another one, `from_study`: its `top` best points are tried first, and its history is
    shown to the sampler where the spaces agree.

    Raises:
        SpecError: the spec is wrong.
        UserError: another spec has this name, or `from_study` is given and the study exists.
        NotFoundError: there is no study `from_study`.
    """
    settings = Settings.from_environment(storage)
    if isinstance(spec, str | os.PathLike):
        validated = load_spec(spec)
    elif isinstance(spec, StudySpec):
        validated = spec
    else:
        validated = parse_spec(spec)
    with telling():
        database = open_storage(settings)
        warm = None if from_study is None else warm_start(database, validated, from_study, top)
        row, _ = creation.create_or_continue(database, validated, settings, warm)
    return Study(database, row.name)
