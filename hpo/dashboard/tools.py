"""What a program may ask for through `hpo mcp`: each tool a method over what commands and the API call.

Nothing here knows the protocol. Docstring and signature are what a tool says of itself. Answers are small:
long ones come in pages, and say what to ask for next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from hpo.dashboard import actions
from hpo.dashboard.access import Role, Session
from hpo.dashboard.lists import list_studies
from hpo.errors import NotFoundError, UserError
from hpo.launch import stored
from hpo.launch.base import Order, hand_over
from hpo.report.markdown import markdown
from hpo.report.records.summary import summarize
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import answers, confirming, creation, reading, waiting
from hpo.studies.selection import select
from hpo.studies.why import why as why_of
from storage.database.engine import Database
from storage.database.records import StudyRow, WorkerState
from storage.history.trials import Part, read_trial
from storage.queue import events
from storage.queue.workers import all_workers

PAGE = 10  # rows of a list
CHUNK = 3000  # characters of a report's page
Study = Annotated[str, Field(description="Name of the study.")]
Page = Annotated[int, Field(ge=1, le=1_000_000)]
Whole = Annotated[int, Field(ge=0, le=1_000_000_000)]


@dataclass(frozen=True)
class Caller:
    """Who asks, and what their server lets them use; its methods named in `TOOLS` are the tools.

    Attributes:
        database: acts on their behalf.
        session: what they may do.
        settings: of the service.
        code: directory that objectives are relative to.
        commands: whether studies whose objective is a command may be made and run.
    """

    database: Database
    session: Session
    settings: Settings
    code: Path
    commands: bool

    def create(
        self,
        spec: Annotated[
            str | dict[str, Any],
            Field(
                description="The study file (YAML), or the same as an object: study, objective (a file or"
                " module on the server's machine, like objectives.classifier), direction, budget, space, ..."
            ),
        ],
    ) -> Any:
        """Store a study. The same spec again finds it, so it is safe to repeat."""
        if self.session.study is not None:
            raise UserError(f"this token is for the study {self.session.study} alone, and makes no other")
        study = parse_spec(spec)
        self._demand_commands(study.objective)
        row, created = creation.create_or_continue(self.database, study, self.settings)
        did = "created" if created else "it was there already, with the same spec"
        return {"study": row.name, "did": did, "trials": row.budget_trials, "next": f"run {row.name}"}

    def run(
        self,
        study: Study,
        runners: Annotated[int, Field(ge=1, le=64, description="Trials at once.")] = 1,
        more: Annotated[bool, Field(description="One more beside those at work.")] = False,
    ) -> Any:
        """Start a worker of a study on the server's machine; nothing where one is at work."""
        row = self._row(study)
        self._demand_commands(row.spec["objective"])
        found = self.database.read(all_workers, row.id)
        at_work = [one for one in found if one.state is WorkerState.ACTIVE and one.study in (None, row.name)]
        if at_work and not more:
            return {"workers": len(at_work), "did": "nothing: they are at work", "next": f"wait {row.name}"}
        hand_over(self.database)
        allowed = ("--allow-commands",) if self.commands else ()
        order = Order(row.name, 1, self.code, runners, worker_arguments=allowed)
        launch = stored.start(self.database, row, "local", order)
        did = "started a worker, which outlives this server"
        return {"launch": launch.id, "did": did, "next": f"wait {row.name}"}

    def look(
        self,
        study: Annotated[str | None, Field(description="Absent: the studies.")] = None,
        where: Annotated[str, Field(description="Its trials: lr<0.01 state=complete best=10%.")] = "",
        sort: Annotated[str, Field(description="Its trials in this order: -value, number, lr.")] = "",
        page: Page = 1,
    ) -> Any:
        """Studies, or one study, or its trials, in pages."""
        study = study or self.session.study
        if study is None:
            found = list_studies(self.database, answers.study, page=page, size=PAGE)
            rows = [{"study": one.name, "state": one.state, "done": one.done} for one in found.studies]
            return {"studies": rows, "page": page, "pages": found.pages}
        row = self._row(study)
        if not where and not sort:
            return self._short(row)
        history = reading.history(self.database, row.name, evaluated=False)
        chosen = select(history, [where], sort=sort or None)
        trials = [
            {"trial": one.number, "state": one.state, "value": one.value, "params": dict(one.params)}
            for one in chosen[(page - 1) * PAGE : page * PAGE]
        ]
        pages = max(1, -(-len(chosen) // PAGE))
        return {"trials": trials, "found": len(chosen), "page": page, "pages": pages}

    def wait(
        self,
        study: Study,
        what: Annotated[str, Field(description="end, best, failure, trials=50, confirmed.")] = "end",
        seconds: Annotated[float, Field(ge=0, le=600)] = 45.0,
    ) -> Any:
        """Wait for something to happen to a study; returns how it stands."""
        row = self._row(study)
        happened, _ = waiting.wait(self.database, row.name, what, seconds)
        told = {"happened": happened, **self._short(row)}
        return told | ({"next": f"wait {row.name} again, or explain"} if happened == "timeout" else {})

    def explain(
        self,
        study: Study,
        trial: Whole | None = None,
        since: Annotated[int, Field(ge=0, description="Id of the last event known.")] = 0,
    ) -> Any:
        """How a study stands, in sentences, and what happened to it; or why a trial has its point."""
        row = self._row(study)
        if trial is None:
            happened = self.database.read(events.of_study, row.name, since=since, limit=PAGE)
            told = [
                {"id": one.id, "at": one.at, "what": one.what, "who": one.who, **one.details}
                for one in happened
            ]
            facts = summarize(reading.history(self.database, row.name, evaluated=False))
            return {"sentences": facts.sentences, "events": told, "since": told[-1]["id"] if told else since}
        record = self.database.read(read_trial, row, trial, with_=Part.WHOLE & ~Part.METRICS)
        if record is None:
            raise NotFoundError(f"{row.name} has no trial {trial}; look with sort: number lists them")
        said = self.database.read(why_of, row, record)
        told_of = ("state", "value", "params", "last_step", "last_report", "error", "broken")
        return {"trial": trial, "why": said, **{name: getattr(record, name) for name in told_of}}

    def enqueue(
        self,
        study: Study,
        point: Annotated[dict[str, Any], Field(description="By parameter; the sampler chooses the rest.")],
        why: Annotated[str, Field(description="Kept with the trial, and shown in the report.")],
    ) -> Any:
        """Propose a point to be tried next, with the reason. The budget stays exact."""
        row = self._row(study)
        number, when = creation.enqueue(self.database, row, point, why=why)
        return {"ticket": number, "did": f"it is tried next{when}", "next": f"wait {row.name}"}

    def steer(
        self,
        study: Study,
        action: Literal["pause", "resume", "stop", "cancel", "retry", "extend"],
        trials: Annotated[Whole | None, Field(description="extend: so many more.")] = None,
        seconds: Annotated[float | None, Field(description="extend: in all, as epochs.")] = None,
        epochs: Whole | None = None,
        target: float | None = None,
        patience: Whole | None = None,
        trial: Annotated[Whole | None, Field(description="retry: only this one.")] = None,
    ) -> Any:
        """Pause, resume, stop or cancel a study; retry its failed trials; extend its budget."""
        row = self._row(study)
        form = {"trials": trials, "seconds": seconds, "epochs": epochs, "target": target}
        done = actions.ACTIONS[action](self.database, row, {**form, "patience": patience, "trial": trial})
        again = action in ("extend", "resume", "retry")
        return {"did": done, "next": f"{'run' if again else 'look'} {row.name}"}

    def confirm(
        self,
        study: Study,
        top: Annotated[int | None, Field(ge=1, le=100, description="Of the best; default 5.")] = None,
        seeds: Annotated[int | None, Field(ge=2, le=1000, description="Of each; default 10.")] = None,
    ) -> Any:
        """Train the best settings of a study that has ended, and its first, again with fresh seeds."""
        row = self._row(study)
        if confirming.ask(self.database, row, top=top, seeds=seeds).state.ended:
            return self._short(row)
        return {**self.run(row.name), "next": f"wait {row.name} for what: confirmed"}

    def report(self, study: Study, page: Page = 1) -> Any:
        """The report as Markdown, in pages."""
        text = markdown([reading.history(self.database, self._row(study).name)])
        pages = max(1, -(-len(text) // CHUNK))
        return {"markdown": text[(page - 1) * CHUNK : page * CHUNK], "page": page, "pages": pages}

    def _row(self, name: str) -> StudyRow:
        if self.session.study not in (None, name):
            raise UserError(f"this token is for the study {self.session.study} alone")
        return reading.get_study(self.database, name)

    def _demand_commands(self, objective: str | None) -> None:
        if objective is None and not self.commands:
            raise UserError("the objective is a command; this server was started without --allow-commands")

    def _short(self, row: StudyRow) -> dict[str, Any]:
        """A study on a few lines, with what may be done next."""
        found = self.database.read(answers.study_detail, row.name)
        sure = found.confirmation
        told: dict[str, Any] = {
            "study": found.name,
            "state": found.state,
            "ended_why": found.ended_why,
            "done": f"{found.done} of {found.budget.trials or 'no limit'}",
            "epochs": found.epochs and f"{found.epochs} of {found.budget.epochs}",
            "trials": {name: n for name, n in vars(found.trials).items() if n},
            "best": found.best,
            "seconds_left": found.seconds_left,
            "chosen": found.chosen,
            "test": found.test,
        }
        if sure is not None:
            settings = [
                {"trial": s.trial, "reported": s.reported, "confirmed": s.estimate and s.estimate.mean}
                for s in sure.settings[:PAGE]
            ]
            judged = {"done": sure.done, "winner": sure.winner, "tied": sure.tied}
            told["confirmation"] = judged | {"settings": settings}
        if found.state not in ("finished", "stopped"):
            told["next"] = f"wait {row.name}, or run it where nobody works"
        elif found.best:
            told["next"] = f"{'report' if sure is not None and sure.done else 'confirm'} {row.name}"
        return {name: value for name, value in told.items() if value not in (None, [], {})}


TOOLS = ("create", "run", "look", "wait", "explain", "enqueue", "steer", "confirm", "report")
_LOOKING = ("look", "wait", "explain", "report")


def schema_of(name: str) -> tuple[str, dict[str, Any]]:
    """What a tool does, and the JSON schema of its arguments."""
    method = getattr(Caller, name)
    schema = TypeAdapter(method).json_schema()
    del schema["properties"]["self"]
    schema["required"] = [one for one in schema.get("required", ()) if one != "self"]
    return str(method.__doc__), schema


def use(caller: Caller, name: str, asked: Mapping[str, Any]) -> Any:
    """Do what a tool does; its answer is JSON.

    Raises:
        HpoError, StorageError: a sentence that says what to do instead.
    """
    if name not in TOOLS:
        raise NotFoundError(f"there is no tool {name[:40]!r}; there are {', '.join(TOOLS)}")
    if name not in _LOOKING and caller.session.role is not Role.ACT:
        raise UserError(f"this token may look, but not {name}; `hpo token add --may act` makes one that may")
    try:
        return answers.plain(TypeAdapter(getattr(caller, name)).validate_python(ArgsKwargs((), dict(asked))))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        takes = ", ".join(schema_of(name)[1]["properties"])
        raise UserError(f"{told}. {name} takes {takes}") from None
