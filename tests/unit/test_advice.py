"""A study's own sampler and pruner, in their process: what they see and choose, and what is told of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import AdviceError, ObjectiveError
from hpo.runner.adviser import make_pruner_of, make_sampler_of
from hpo.search.samplers import suggest
from hpo.worker import advice
from hpo.worker.advice import Advice
from tests.support.command import those_running
from tests.support.study_files import complaint, study
from tests.support.waiting import wait_until

THEIRS = """
    import os, sys, time
    import optuna

    class Mine(optuna.samplers.RandomSampler):
        ended = 0

        def infer_relative_search_space(self, study, trial):
            return {"x": optuna.distributions.FloatDistribution(0, 1)}

        def sample_relative(self, study, trial, space):
            print("a library talks")
            study._storage.set_trial_system_attr(trial._trial_id, "mine", {"saw": len(study.trials)})
            done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
            return {"x": (len(done) + 10 * self.ended) / 100}

        def sample_independent(self, study, trial, name, distribution):
            how = os.environ["HOW"]
            if how == "raises":
                raise ValueError("the surrogate is singular")
            if how == "hangs":
                time.sleep(600)
            if how == "dies":
                os._exit(3)
            if how == "crashes":
                os.abort()
            return 7.0 if how == "lies" else "seven" if how == "babbles" else 0.5

        def after_trial(self, study, trial, state, values):
            Mine.ended += 1

    class Half(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            leaked = [name for name in os.environ if name.startswith("PG") or name == "HPO_STORAGE"]
            assert not leaked, leaked
            return trial.last_step >= 2

    def make(seed):
        return Mine(seed)

    def pruner():
        return Half()

    def broken(seed):
        import no_such_library

    def other(seed):
        return seed
"""
SPACE = {"x": {"type": "float", "low": 0, "high": 1}, "y": {"type": "float", "low": 0, "high": 1}}


def their_study(factory: str = "mine.py:make", **changes: Any) -> Any:
    own = {
        "sampler": {"name": "custom", "factory": factory},
        "pruner": {"name": "custom", "factory": "mine.py:pruner"},
    }
    return study(**{**own, "space": SPACE, **changes})


class Served:
    """A study in memory, and its advice."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        (folder / "mine.py").write_text(textwrap.dedent(THEIRS))
        self.spec = their_study(**changes)
        self.study = optuna.create_study(study_name=self.spec.study)
        self.told = 0
        self.advice = Advice(self.spec, self.study._study_id, str(folder), self.news, "worker")

    def news(self, version: int) -> tuple[int, Sequence[FrozenTrial]]:
        """Everything, each time it is more: what changed is told again."""
        trials = self.study.get_trials()
        self.told += len(trials)
        return version + 1, trials

    def begin(self) -> FrozenTrial:
        return self.study._storage.get_trial(self.study._storage.create_new_trial(self.study._study_id))

    def point(self) -> tuple[FrozenTrial, dict[str, Any]]:
        trial = self.begin()
        return trial, suggest(self.spec, self.study, trial, 3, {}, (), self.advice.sampler(3))


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(how: str = "well", **changes: Any) -> Served:
        monkeypatch.setenv("HOW", how)
        monkeypatch.setenv("PGPASSWORD", "geheim")
        monkeypatch.setenv("HPO_STORAGE", "sqlite:///hpo.db")
        made.append(Served(tmp_path, **changes))
        return made[-1]

    yield make
    for one in made:
        one.advice.close()


def test_it_chooses_from_the_history_and_keeps_its_state(serve: Callable[..., Served]) -> None:
    """One process for the study's whole time: what it learns by `after_trial` is still there."""
    served = serve()
    trial, point = served.point()
    assert point == {"x": 0.0, "y": 0.5}
    noted = served.study._storage.get_trial(trial._trial_id).system_attrs
    assert noted == {"mine": {"saw": 1}}
    served.study._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    assert served.point()[1] == {"x": 0.11, "y": 0.5}, "one is complete, and it was told of it"
    running = served.begin()
    for step in (1, 2):
        served.study._storage.set_trial_intermediate_value(running._trial_id, step, 0.0)
        now = served.study._storage.get_trial(running._trial_id)
        assert served.advice.prune(served.study, now, 4) == (step == 2)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raises", "failed:\n"),
        ("raises", "ValueError: the surrogate is singular"),
        ("hangs", "has not answered within 1 s and was ended"),
        ("dies", "ended with status 3"),
        ("crashes", "ended by SIGABRT"),
        ("lies", "chose 7.0 for y, which is not of FloatDistribution"),
        ("babbles", "ValueError"),
    ],
)
def test_what_it_does_wrong_is_a_sentence_and_its_process_is_ended(
    how: str, why: str, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "PATIENCE", 1.0 if how == "hangs" else 120.0)
    served = serve(how)
    with pytest.raises(AdviceError) as caught:
        served.point()
    assert why in str(caught.value)
    if how != "lies":
        assert served.advice._made is None
        wait_until(lambda: not _advisers(), what="its process has ended")


def test_factories_that_do_not_fit_are_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(textwrap.dedent(THEIRS))
    assert make_sampler_of(their_study(), tmp_path, 0) is not None
    assert make_pruner_of(their_study(), tmp_path) is not None
    assert make_sampler_of(study(), tmp_path, 0) is None
    for factory, why in {
        "mine.py:broken": "No module named 'no_such_library'",
        "mine.py:other": "must return an optuna.samplers.BaseSampler, and returned int",
        "mine.py:none": "no callable named none",
        "none.py": "there is no file",
    }.items():
        with pytest.raises(ObjectiveError, match=why):
            make_sampler_of(their_study(factory), tmp_path, 0)
    assert "sampler.factory is required" in complaint(sampler={"name": "custom"})
    assert "neither a module nor a .py file" in complaint(pruner={"name": "custom", "factory": "a/b"})


def _advisers() -> list[int]:
    return [one.pid for one in those_running("adviser", psutil.Process().children(recursive=True))]
