"""`hpo run train.py --trials 30`: a study without a study file."""

from __future__ import annotations

import pytest
import yaml

from tests.end_to_end.workplace import PARABOLA, Workplace


def test_an_objective_alone_is_run_to_a_total_and_kept_as_a_study_file(place: Workplace) -> None:
    """The study has the file's name; what is kept is the same study; more trials go on with it."""
    place.write("code/train.py", PARABOLA)
    words = ("run", "code/train.py", "--no-report", "--runners", "1", "--sampler", "random")
    place.hpo(*words, "--trials", "2", "--write", "code/study.yaml").check()
    assert yaml.safe_load((place.path / "code/study.yaml").read_text()) == {
        "study": "train",
        "objective": "train.py",
        "direction": "minimize",
        "sampler": "random",
        "budget": {"trials": 2},
    }
    again = place.look("run", "code/study.yaml", "--no-report").check()
    assert "train is finished: all trials done" in again.err
    assert "train exists" in place.hpo(*words, "--trials", "3").check().err
    assert [trial["state"] for trial in place.trials("train")] == ["complete"] * 3
    assert "train is finished" in place.look(*words, "--trials", "1").check().err
    assert len(place.trials("train")) == 3, "no trial is taken away, and none is added"
    changed = place.look(*words, "--trials", "3", "--direction", "maximize").check(2)
    assert "another study named train is in this database" in changed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian.py", "--trials", "3"], "there is no file trian.py; did you mean 'train.py'?"),
        (["train.py"], "say how many trials train has in all, as in --trials 30"),
        (["train:make"], "say how many trials train-make has in all"),
        (["train.py", "--trials", "0"], "hpo run train.py: budget.trials must be at least 1, got 0"),
        (["train.py", "--trials", "3", "--direction", "up"], "must be minimize or maximize, got 'up'"),
        (["train.py", "--trials", "3", "--pruner", "medan"], "did you mean 'median'?"),
        (["mine.yaml", "--trials", "3", "--study", "other"], "--study, --trials: a study file says that"),
        (["search.ipynb", "--trials", "3"], "search.ipynb is a notebook: call hpo.optimize"),
        (["train.py", "--trials", "3", "--write", "mine.yaml"], "--write mine.yaml: there is such a file"),
    ],
)
def test_what_is_wrong_is_a_sentence_and_leaves_nothing(
    words: list[str], said: str, shared_place: Workplace
) -> None:
    """No study is made of a mistake."""
    shared_place.write("train.py", PARABOLA)
    shared_place.write("mine.yaml", "study: mine\n")
    assert said in shared_place.look("run", *words).check(2).err
    assert not (shared_place.path / "hpo.db").exists()
