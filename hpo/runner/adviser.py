"""An adviser's process: `python -m hpo.runner.adviser FD`, for a study with a sampler or pruner of its own.

It is started by a worker and has a pipe to it, and neither a connection to the database nor a secret of it.

It keeps the study's history by increments. What it is asked it answers in JSON; what a sampler or pruner
notes with a trial goes back with the answer, for its worker to write.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from hpo.errors import HpoError, ObjectiveError
from hpo.objective import load_callable
from hpo.runner.channel import Channel
from hpo.runner.process import die_with_parent
from hpo.runner.values import told
from hpo.search.diverged import for_sampler
from hpo.search.view import StudyView, changed, through
from hpo.spec import StudySpec
from hpo.spec.objective import parse_factory
from hpo.spec.sampling import CustomPruner, CustomSampler


@dataclass(frozen=True)
class Engaged:
    """Whose sampler and pruner it is."""

    spec: StudySpec
    study_id: int  # Optuna's
    code: str  # directory that the factories' paths are relative to
    seed: int  # of the sampler


@dataclass(frozen=True)
class Question:
    """Something asked for a trial, with what is new in the study."""

    what: Literal["relative", "independent", "prune"]
    trial: FrozenTrial
    news: Sequence[FrozenTrial]
    attributes: Mapping[str, Any]  # the study's system attributes
    name: str = ""  # with "independent"
    distribution: BaseDistribution | None = None  # with "independent"


def make_sampler_of(spec: StudySpec, code: Path, seed: int) -> BaseSampler | None:
    """The sampler that the study's own factory makes; None where the study names one of ours.

    Raises:
        ObjectiveError: there is no such factory, or it makes something else.
    """
    chosen = spec.sampler
    return _make(BaseSampler, chosen.factory, code, seed) if isinstance(chosen, CustomSampler) else None


def make_pruner_of(spec: StudySpec, code: Path) -> BasePruner | None:
    """As `make_sampler_of`, for a pruner."""
    chosen = spec.pruner
    return _make(BasePruner, chosen.factory, code) if isinstance(chosen, CustomPruner) else None


def _make(kind: Any, factory: str, code: Path, *arguments: Any) -> Any:
    make: Any = load_callable(parse_factory(factory), code).function
    what = kind.__name__.removeprefix("Base").lower()
    try:
        made = make(*arguments)
    except (Exception, SystemExit) as error:
        raise ObjectiveError(f"{what}.factory {factory} failed:\n{told(error)}") from error
    if not isinstance(made, kind):
        wanted = f"an optuna.{what}s.{kind.__name__}, and returned {type(made).__name__}"
        raise ObjectiveError(f"{what}.factory {factory} must return {wanted}")
    return made


class Adviser:
    """One study's own sampler and pruner, and the study as they see it.

    Raises:
        ObjectiveError: they cannot be made.
    """

    def __init__(self, engaged: Engaged) -> None:
        self._spec = engaged.spec
        code = Path(engaged.code)
        self._sampler = make_sampler_of(engaged.spec, code, engaged.seed) or RandomSampler()
        self._pruner = make_pruner_of(engaged.spec, code) or NopPruner()
        self._view = _View(engaged)
        self._template = optuna.Study(engaged.spec.study, self._view, self._sampler, self._pruner)
        self._open: set[int] = set()  # trials that the sampler was asked about and that have not ended

    def answer(self, question: Question) -> dict[str, Any]:
        """What it says, and what was noted meanwhile."""
        self._view.learn(question)
        study = through(self._template, self._view)
        seen = for_sampler(study, self._spec)
        for news in question.news:
            if news._trial_id in self._open and news.state.is_finished():
                self._open.discard(news._trial_id)
                self._sampler.after_trial(seen, news, news.state, news.values)
        trial = self._view.get_trial(question.trial._trial_id)
        value: Any
        match question.what:
            case "prune":
                value = bool(self._pruner.prune(study, trial))
            case "relative":
                self._open.add(trial._trial_id)
                self._sampler.before_trial(seen, trial)
                space = self._sampler.infer_relative_search_space(seen, trial)
                chosen = self._sampler.sample_relative(seen, trial, space)
                value = {name: _plain(space[name], chosen[name]) for name in chosen}
            case "independent":
                assert question.distribution is not None
                found = self._sampler.sample_independent(seen, trial, question.name, question.distribution)
                value = _plain(question.distribution, found)
        notes, self._view.notes = self._view.notes, []
        return {"value": value, "notes": notes}


def _plain(distribution: BaseDistribution, value: Any) -> tuple[str, float]:
    """The distribution as JSON, and the value as it is stored."""
    return distribution_to_json(distribution), float(distribution.to_internal_repr(value))


class _View(StudyView):
    """The study by its increments; what is noted is seen at once, and told with the answer."""

    def __init__(self, engaged: Engaged) -> None:
        super().__init__(
            engaged.spec.study,
            engaged.study_id,
            engaged.spec.directions,
            lambda: sorted(self._by_id.values(), key=lambda trial: trial.number),
            lambda trial_id: self._by_id[trial_id],
        )
        self._by_id: dict[int, FrozenTrial] = {}
        self._attributes: dict[str, Any] = {}
        self.notes: list[tuple[str, str, Any]] = []

    def learn(self, question: Question) -> None:
        """Take in what is new."""
        for trial in (*question.news, question.trial):
            self._by_id[trial._trial_id] = trial
        self._attributes = dict(question.attributes)
        self.notes = []

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As they were when the question was asked, and what was noted since."""
        self._check(study_id)
        return dict(self._attributes)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Note it with the study."""
        self._attributes[key] = value
        self.notes.append(("study system", key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note it with the trial that is asked about."""
        trial = self._by_id[trial_id]
        self._by_id[trial_id] = changed(trial, system_attrs={**trial.system_attrs, key: value})
        self.notes.append(("system", key, value))


def main() -> None:
    """Entry point of the child process."""
    die_with_parent()
    faulthandler.enable()
    channel = Channel(int(sys.argv[1]))
    engaged: Any = pickle.loads(channel.receive())  # noqa: S301 -- its worker's
    adviser: Adviser | None = None
    while True:
        try:
            question: Any = pickle.loads(channel.receive())  # noqa: S301 -- its worker's
        except (EOFError, OSError):
            os._exit(0)  # its worker is gone
        try:
            adviser = adviser or Adviser(engaged)
            content = json.dumps(adviser.answer(question))
        except HpoError as error:
            content = json.dumps({"error": str(error)})
        except BaseException as error:
            content = json.dumps({"error": told(error)})
        sys.stdout.flush()
        channel.send(content.encode())


if __name__ == "__main__":
    main()
