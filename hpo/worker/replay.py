"""Train a trial again from what is stored of it, and compare it epoch by epoch. Nothing is written."""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from hpo.errors import HpoError, UserError
from hpo.fingerprint import LARGEST, differences, fingerprint, unpack, versions
from hpo.reached import in_environment
from hpo.runner import messages
from hpo.runner.checkpoint import CheckpointStore
from hpo.runner.interrupt import StopFlag
from hpo.runner.link import Voice
from hpo.runner.session import find_objective, seed_everything
from hpo.runner.trial import RunningTrial
from hpo.runner.values import NotANumberError, checked_values, told
from hpo.search.draws import training_seed
from hpo.spec import StudySpec, resolve
from hpo.studies.evaluation import use_threads
from hpo.text import counted
from hpo.worker.code import MARK
from hpo.worker.study import ServedStudy, running
from storage.database.engine import Database
from storage.database.records import StudyRow, objective_name
from storage.files.artifacts import ArtifactStore
from storage.files.checkpoints import code_key, study_key
from storage.history.attempts import AttemptRow, attempts_of, ticket_of
from storage.history.records import TrialRecord

LANE = 1e-5  # in losses and metrics: a lane is not bit-equal to the same training alone (docs/training.md)
ORIGIN = "origin"  # attribute in which our objectives say what they began with
REPLAYED = ("complete", "pruned", "diverged")
_COST = re.compile(r"(^|_)(seconds|time|memory)(_|$)")  # metrics that no second run repeats
_WORDS = {"data": "the data set differs", "weights": "the initial weights differ"}
_TOLD_ELSEWHERE = ("python", "torch", "git_commit")


@dataclass(frozen=True)
class Replay:
    """What came of training a trial again."""

    trial: int
    same: bool  # every value of every epoch, bit for bit; of a lane, within the tolerance
    steps: int  # that could be compared
    step: int | None  # the first that differs; None where only the result does, or nothing
    name: str  # of the value that differs there
    here: float | None
    then: float | None
    differences: tuple[str, ...]  # in what is recorded of then, as sentences
    error: str | None  # what ended it here and not then
    tolerance: float = 0.0  # that was allowed

    @property
    def said(self) -> str:
        """One line."""
        over = counted(self.steps, "epoch")
        known = "; ".join(self.differences)
        if self.same:
            how = f"within {self.tolerance:g}" if self.tolerance else "bit-exact"
            return f"{how} over {over}" + (f", although {known}" if known else "")
        if self.error is not None:
            told_ = f"ends here with {self.error}"
        else:
            where = "in its result" if self.step is None else f"at epoch {self.step}"
            told_ = f"diverges {where}: {self.name} {_shown(self.here)} against {_shown(self.then)}"
        return f"{told_}; {known or 'nothing that is recorded differs'}"


def replay(
    database: Database, row: StudyRow, record: TrialRecord, code: Path, threads: int | None = None
) -> Replay:
    """Train the trial again in this process, on the device it had where there is one, and compare.

    The objective is handed what a runner hands it, on a pipe that leads nowhere: it is pruned where it was,
    finds no checkpoint and no other trials, and what it keeps goes into a directory that is removed. It is
    relative to the directory `code`; `threads` of the CPU stand in the place of the study's.

    Raises:
        UserError: the trial has not ended, or was not trained by hpo.
        ObjectiveError: its objective cannot be imported here.
    """
    attempts = database.read(attempts_of, row, record.number)
    if record.state not in REPLAYED or not attempts:
        why = "was not trained by hpo" if not attempts else f"is {record.state}"
        raise UserError(
            f"trial {record.number} of {row.name} {why}; a trial that has a result can be replayed"
        )
    spec = StudySpec.model_validate(row.spec)
    used = spec.threads if threads is None else threads
    use_threads(used)
    objective = find_objective(spec, code)
    use_threads(used)  # torch may have come with it
    device = _device(attempts[-1].device)
    heard = _Heard(record)
    with tempfile.TemporaryDirectory(prefix="hpo-replay-") as aside:
        store = ArtifactStore(aside)
        held = database.read(ticket_of, row, record.number)
        number = record.ticket if held is None or held.copies is None else held.copies
        task = messages.Task(0, "trial", 1, training_seed(row.seed, number), True, False, 0, None)
        found = running(record.number, record.params, record.distributions)
        trial = RunningTrial(
            task,
            messages.Beginning(found, resolve(spec, record.params), {}),
            served=ServedStudy(database, row, spec, str(code)).as_served(),
            device=device,
            link=heard,
            stop=StopFlag(),
            checkpoint=CheckpointStore(store, task.folder, 1, None),
            store=store,
        )
        seed_everything(task.seed)
        values, error = None, None
        try:
            values = checked_values(objective.call(trial), len(row.spec["directions"]))
        except (optuna.TrialPruned, NotANumberError):
            pass
        except Exception as raised:
            error = None if record.state == "diverged" else told(raised).rstrip().splitlines()[-1]
    heard.metrics(trial.take_unsent())
    known = _code_apart(fingerprint(objective, code), row.code or {})
    mine = {"device": device, "threads": used} | _flat(heard.origin)
    then = {"device": attempts[-1].device, "threads": spec.threads} | _flat(record.user_attrs.get(ORIGIN))
    known += _differences(record, attempts[-1], mine, then)
    return _compared(record, heard.values, values, known, error)


@contextmanager
def stored_code(row: StudyRow, beside: Path) -> Iterator[Path]:
    """The code of the study's first result in a directory of its own, to be given as `code`, once a process.

    What else lies in `beside`, data say, is linked into it, and what `beside` has is not imported meanwhile.

    Raises:
        UserError: none is kept, or it is nothing that hpo has kept.
        ArtifactError: it is not in the store, or was changed there.
    """
    code = row.code or {}
    if "kept" not in code or Path(str(row.spec.get("objective"))).is_absolute():
        its, commit = code.get("versions", {}).get("hpo", "of then"), code.get("commit") or "unknown"
        raise UserError(
            f"no code is stored of {row.name}. An objective of hpo's needs none: leave --code away, with hpo "
            f"{its} installed. One's own is kept with the first complete trial, up to {LARGEST:,} bytes, "
            f"where the study names it by paths in its directory: bring it here (commit {commit}), and say "
            "--code DIR"
        )
    key = code_key(study_key(row.uid, row.first_name), code["kept"])
    content = ArtifactStore(row.artifacts).get(key, code["kept"])
    path = sys.path[:]
    with tempfile.TemporaryDirectory(prefix="hpo-code-") as aside:
        folder = Path(aside).resolve()
        unpack(content, folder)
        _link(folder, beside.resolve())
        sys.path[:] = [
            one
            for one in path
            if in_environment(at := Path(one).resolve()) or beside.resolve() not in (at, *at.parents)
        ]
        try:
            yield folder
        finally:
            sys.path[:] = path


def _link(folder: Path, beside: Path) -> None:
    """Link what lies in `beside`, and is not in `folder`, into it; also in folders that both have."""
    for entry in beside.iterdir() if beside.is_dir() else ():
        here = folder / entry.name
        if here.is_dir():
            _link(here, entry)
        elif not here.exists() and entry.name not in (".git", "__pycache__"):
            here.symlink_to(entry)


class _Heard(Voice):
    """The end of a pipe that leads nowhere: hears what an objective says, and answers as then."""

    def __init__(self, record: TrialRecord) -> None:
        self.values: dict[tuple[int, str], float] = {}  # by step and name; "" is the report
        self.origin: Mapping[str, Any] = {}
        reports = record.reports or record.metrics.get(objective_name(0), {})  # else of several directions
        last = max(reports, default=None) if record.state == "pruned" else None
        self._ends = {(last, ""), (last, objective_name(0))}  # what it reported when it was pruned

    def post(self, kind: Any, *fields: Any) -> None:
        """Keep what is reported, and what it began with."""
        if kind is messages.Step:
            step, value, named = fields
            if value is not None:
                self.values[step, ""] = value
            self.metrics({step: named})
        elif kind is messages.Attribute and fields[:2] == ("user", ORIGIN):
            self.origin = json.loads(fields[2])

    def metrics(self, by_step: Mapping[int, Mapping[str, float]]) -> None:
        """Keep what was logged."""
        self.values.update({(step, name): v for step, named in by_step.items() for name, v in named.items()})

    def ask(self, kind: Any, *fields: Any) -> Any:
        """Answer: pruned where it was, its files are there already, alone in its study."""
        if kind is messages.ShouldPrune:
            return not self._ends.isdisjoint(self.values)
        if kind is messages.Suggest:
            raise HpoError(f"the objective asks for {fields[0]!r}, which it did not then")
        return {messages.FileStored: True, messages.ReadStudy: (0, []), messages.ReadAttributes: {}}.get(kind)

    def check(self) -> None:
        """Nothing interrupts it."""

    def flush(self) -> None:
        """Nothing is waited for."""


def _device(then: str) -> str:
    """A card if it had one and there is one here."""
    if not then.startswith("cuda"):
        return "cpu"
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _compared(
    record: TrialRecord,
    here: Mapping[tuple[int, str], float],
    values: tuple[float, ...] | None,
    known: Sequence[str],
    error: str | None,
) -> Replay:
    then = {(step, ""): value for step, value in record.reports.items()}
    then |= {(s, name): v for name, series in record.metrics.items() for s, v in series.items()}
    then = {key: value for key, value in then.items() if not _COST.search(key[1])}
    steps = len({step for step, _ in then})
    within = LANE if _lanes(record) else 0.0
    apart = [key for key in sorted(then) if key not in here or not _same(here[key], then[key], within)]
    found: dict[str, Any] = {"step": None, "name": "", "here": None, "then": None}
    if apart:
        first = next((key for key in apart if key[0] == apart[0][0] and not key[1]), apart[0])
        name = first[1] or "value"
        found = {"step": first[0], "name": name, "here": here.get(first), "then": then[first]}
    elif error is None and record.state == "complete" and record.values is not None:
        for mine, theirs in zip(values or (None,) * len(record.values), record.values, strict=True):
            if mine is None or not _same(mine, theirs, within):
                found = {"step": None, "name": "value", "here": mine, "then": theirs}
                break
    same = error is None and not found["name"]
    return Replay(
        record.number, same, steps, **found, differences=tuple(known), error=error, tolerance=within
    )


def _same(one: float, other: float, within: float) -> bool:
    return one == other or abs(one - other) <= within or (math.isnan(one) and math.isnan(other))


def _lanes(record: TrialRecord) -> int | None:
    """How many trained in one model with it then; None: it trained alone."""
    told_ = record.user_attrs.get("training")
    found = isinstance(told_, Mapping) and "members" not in told_ and told_.get("lanes")
    return int(found) if found else None


def _shown(value: float | None) -> str:
    return "nothing" if value is None else repr(value)


def _code_apart(here: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Which of the study's sources are others here; what else this process has imported is not looked at."""
    sources = {name: digest for name, digest in here["sources"].items() if name in then.get("sources", {})}
    found = differences({**here, "sources": sources, "versions": {}}, {**then, "versions": {}})
    return [line.replace(" there", " then") for line in found]


def _differences(
    record: TrialRecord, last: AttemptRow, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[str]:
    """What is recorded of then and is another here, beside the code; as sentences."""
    here = versions()
    found = [f"other code than the study's then: {line}" for line in record.user_attrs.get(MARK, ())]
    found += [
        f"{name} {here.get(name, 'missing')} here, {version} then"
        for name, version in last.versions.items()
        if here.get(name) != version
    ]
    for name in theirs:
        if name in _TOLD_ELSEWHERE or name not in mine or mine[name] == theirs[name]:
            continue
        if name in _WORDS:
            found.append(f"{_WORDS[name]}: {str(mine[name])[:12]} here, {str(theirs[name])[:12]} then")
        else:
            found.append(f"{name.replace('_', ' ')} {mine[name]} here, {theirs[name]} then")
    if lanes := _lanes(record):
        found.append(f"then it was one of {lanes} lanes, whose sums are added in another order")
    if last.resumed_from is not None:
        found.append(f"then it went on from a checkpoint of epoch {last.resumed_from}")
    return found


def _flat(origin: Any) -> dict[str, Any]:
    """What our objectives began with, the environment beside the rest; {} of others."""
    named = dict(origin) if isinstance(origin, Mapping) else {}
    environment = named.pop("environment", None)
    return {**(environment if isinstance(environment, Mapping) else {}), **named}
