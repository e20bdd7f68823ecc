"""From Python: `hpo.optimize`, `hpo.load` and `hpo.create`, with the verbs of the command line."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hpo import optimizing
from hpo.errors import HpoError, UserError
from hpo.objective import is_importing, own_objective
from hpo.settings import Settings
from hpo.spec import StudySpec, load_spec, parse_spec
from hpo.studies import answers, confirmed, confirming, creation, exporting, reading, steering, waiting
from hpo.studies.evaluation import evaluate, weights_of
from hpo.studies.steering import has_ended
from hpo.studies.warm_start import warm_start
from hpo.wiring import open_storage, speaking, telling
from storage.database.engine import Database
from storage.database.records import StudyRow
from storage.history.audit import Audit, audit
from storage.history.records import Confirmation, StudyHistory, TrialRecord, why_no_best

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    import plotly.graph_objects as go


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
        return dict(answers.plain(self._database.read(answers.study_detail, self._row().name)))

    def trials(self) -> pd.DataFrame:
        """One row a trial."""
        import pandas as pd

        return pd.DataFrame(exporting.flat_rows(self.history()))

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

    def add_trial(self, params: Mapping[str, Any], value: float | Sequence[float], **user_attrs: Any) -> None:
        """Show the search a result that came about elsewhere. It is outside the budget: nobody ran it here.

        Raises:
            UserError: the point does not fit the space, or nothing says what a parameter's range is.
        """
        creation.add_trial(self._database, self.history(), params, value, user_attrs)

    def run(
        self,
        objective: Callable[[Any], Any] | None = None,
        *,
        trials: int | None = None,
        runners: int = 1,
        code: str | os.PathLike[str] = ".",
        allow_mismatch: bool = False,
        allow_commands: bool = False,
    ) -> Study:
        """Run trials here until the study has ended; returns the study.

        Args:
            objective: the function, which runs in this process; not needed for what others can import too.
            trials: at most so many now; None: all that are left.
            runners: trials at once. More than one need an objective that can be imported.
            code: directory that the study's objective is relative to.
            allow_mismatch: run although the code differs from the study's; marked on each trial.
            allow_commands: run the study's command, where its objective is one: a program of this machine.

        Raises:
            HpoError: a sentence that says why it goes on no more, or that no trial completed.
        """
        row = self._row()
        how: dict[str, Any] = {"runners": runners, "code": code, "allow_mismatch": allow_mismatch}
        serve = partial(self._serve, objective, **how, allow_commands=allow_commands)
        if not row.state.ended:
            serve(trials=trials)
        elif confirming.go_on(self._database, self.name) is None:
            raise UserError(has_ended(row))
        if confirming.go_on(self._database, self.name) is not None:
            serve()
        self._demand_result()
        return self

    def _serve(self, objective: Callable[[Any], Any] | None, **how: Any) -> None:
        """Work here at what the study has: its trials; once it has ended, what is trained again."""
        _demand_no_import()
        optimizing.work(self._database, self._row(), objective, **how)

    def confirm(
        self,
        objective: Callable[[Any], Any] | None = None,
        *,
        top: int | None = None,
        seeds: int | None = None,
        **how: Any,
    ) -> Confirmation:
        """Train the best settings, and the first, again here with fresh seeds, as `hpo confirm` does.

        Args:
            objective: as of `run`.
            top: how many of the best; None: as the study file says, else 5.
            seeds: trainings of each, at most; None: likewise, else 10.
            how: `runners`, `code`, `allow_mismatch` and `allow_commands` of `run`.

        Raises:
            UserError: the study runs still, has several directions, or no result to confirm.
        """
        its = confirming.ask(self._database, self._row(), top=top, seeds=seeds)
        if not its.state.ended:
            self._serve(objective, **how)
        found = self.confirmation
        assert found is not None
        return found

    @property
    def confirmation(self) -> Confirmation | None:
        """What trainings with fresh seeds say of the best settings; None where nobody asked."""
        return self._database.read(confirmed.of, self._row())

    def _demand_result(self) -> None:
        found = self.history()
        if not found.winners:
            errors = [trial.error for trial in found.trials if trial.error]
            last = f"; the last one met: {errors[-1]}" if errors else ""
            raise HpoError(
                f"{self.name} {why_no_best(found)}{last}. What failed is queued again by "
                f"hpo.load({self.name!r}).retry()"
            )

    def wait(self, timeout: float | None = None) -> Study:
        """Wait until the study has ended, whoever runs it; returns the study.

        Raises:
            TimeoutError: it goes on after `timeout` seconds.
        """
        seconds = math.inf if timeout is None else timeout
        if waiting.wait(self._database, self.name, "end", seconds)[0] == "timeout":
            raise TimeoutError(f"{self.name} still goes on after {timeout:g} seconds")
        return self

    def plot(self, chart: str = "history") -> go.Figure:
        """A chart of the report as a plotly figure: history, importances, slice-1, contour, timeline, ...

        Raises:
            NotFoundError: there is no such chart; or nothing to see in it yet.
        """
        from hpo.report import catalogue

        return catalogue.draw(self.history(), chart)

    def load_weights(self, trial: int | None = None) -> Any:
        """The weights that the best trial kept, or another one, tensors on the CPU.

        Raises:
            HpoError: it kept none, or they cannot be read here.
            NotFoundError: there is no such trial.
        """
        return weights_of(self._database, self._row(), self.history(), trial)

    def _repr_html_(self) -> str:
        """A card, in a notebook."""
        from hpo.report.card import card

        return card(self.history())

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the report (default: `report-NAME.html` here); returns its path."""
        from hpo.report.page import write_report

        return write_report([self.history()], path or f"report-{self.name}.html", written=datetime.now(UTC))

    def evaluate(self, code: str | os.PathLike[str] = ".") -> Mapping[str, Any] | None:
        """The winner on the test set, measured once."""
        return evaluate(self._database, self._row(), Path(code))

    def audit(self) -> Audit:
        """Whether the invariants held, from the database."""
        return self._database.read(audit, self._row())

    def enqueue(self, point: Mapping[str, Any], *, by: str | None = None, why: str | None = None) -> int:
        """Have a point tried next; returns its ticket's number. Who asks for it and why stay with it."""
        return creation.enqueue(self._database, self._row(), point, by, why)[0]

    def extend(self, *, trials: int = 0, **budgets: Unpack[creation.Budgets]) -> None:
        """More trials, or other budgets: `seconds` or `epochs` in all, a `target`, more `patience`."""
        creation.extend(self._database, self._row(), trials=trials, **budgets)

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


def optimize(
    objective: Callable[[Any], Any],
    *,
    study: str | None = None,
    trials: int = 30,
    direction: str | Sequence[str] = "minimize",
    space: Mapping[str, Any] | None = None,
    sampler: str | Mapping[str, Any] | None = None,
    pruner: str | Mapping[str, Any] | None = None,
    confirm: bool | Mapping[str, Any] | None = None,
    runners: int = 1,
    storage: str | None = None,
    allow_mismatch: bool = False,
) -> Study:
    """Search with a function of a trial, one of a notebook's cell too, and keep everything as any study does.

    Called again it goes on to `trials` in all and no further. Ctrl-C gives back what runs.

    Args:
        objective: `objective(trial) -> float`; it runs in this process, while another renews its lease.
        study: the study's name; default: the function's.
        trials: of the study in all.
        direction: minimize or maximize; a list of them for several values.
        space: parameters by name as in a study file; None: the objective suggests for itself.
        sampler: as in a study file: a name, or a mapping with `name` and options.
        pruner: likewise.
        confirm: train the best again when the search has ended, as in a study file: True, or a mapping.
        runners: trials at once; more than one need a function that other processes can import from a file.
        storage: SQLAlchemy URL; default: HPO_STORAGE, else `sqlite:///hpo.db` here.
        allow_mismatch: go on although the function was changed; marked on each trial.

    Raises:
        SpecError: what is asked for is no study.
        CodeDiffersError: the function is not the one whose results the study has.
        HpoError: a sentence that says why it goes on no more, or that no trial completed.
    """
    _demand_no_import()
    for what, given, example in (("sampler", sampler, "tpe"), ("pruner", pruner, "median")):
        if not isinstance(given, str | Mapping | None):
            raise UserError(
                f"{what} must be a name or a mapping as in a study file, like {what}={example!r}, or {what}="
                f"{{'name': ...}}: it is stored with the study. Got {type(given).__name__}"
            )
    own = own_objective(objective)
    one = isinstance(direction, str)
    asked = {
        "study": study or own.called.lstrip("_"),
        "objective": own.named,
        "direction" if one else "directions": direction if one else list(direction),
        "budget": {"trials": trials},
        "space": space,
        "sampler": sampler,
        "pruner": pruner,
        "confirm": confirm,
    }
    spec = parse_spec({name: value for name, value in asked.items() if value is not None}, "hpo.optimize")
    settings = Settings.from_environment(storage)
    with telling():
        database = open_storage(settings)
        row, _, count = creation.create_or_extend(database, spec, settings)
        found = Study(database, row.name)
        confirms = confirming.go_on(database, row.name) is not None
        if not confirms and row.state.ended and row.budget_trials != creation.tickets_ended(database, row):
            print(has_ended(row), file=sys.stderr)
        elif not confirms and (row.state.ended or count == 0):
            found._demand_result()
        else:
            found.run(objective, trials=count, runners=runners, allow_mismatch=allow_mismatch)
    return found


def _demand_no_import() -> None:
    if is_importing():
        raise UserError(
            "this starts a search while the objective's own file is imported, by the search itself: put the "
            'call under `if __name__ == "__main__":`'
        )


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
