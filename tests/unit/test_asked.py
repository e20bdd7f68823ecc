"""What a study file and its objective say differently is told before the first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.asked import notes, places, sampling_code
from hpo.errors import ObjectiveError
from hpo.objective import load_objective
from hpo.spec import StudySpec
from hpo.spec.objective import parse_objective

OBJECTIVE = """
from beside import helper

def objective(trial):
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    kind = trial.suggest_categorical(name="kind", choices=["a", "b"])
    units = [trial.suggest_int(f"units_{layer}", 1, 8) for layer in range(3)]
    return lr + len(units) + trial.params["lr"] + helper(trial)
"""
HELPER = """
def helper(trial):
    return trial.config["momentum"]
"""
LR = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
FLOAT = {"type": "float", "low": 0.0, "high": 1.0}


def told(folder: Path, objective: str = OBJECTIVE, **fields: Any) -> list[str]:
    (folder / "mine.py").write_text(objective)
    (folder / "beside.py").write_text(HELPER)
    spec = {"study": "s", "objective": "mine.py", "direction": "minimize", "budget": {"trials": 1}, **fields}
    return notes(StudySpec.model_validate(spec), folder)


def test_where_things_are_is_told_as_whole_paths_and_a_samplers_files_are_code(tmp_path: Path) -> None:
    """A value that names no file is left out; what a factory imports beside it is its code, too."""
    for name in ("mine.py", "table.csv", "digits"):
        (tmp_path / name).touch()
    (tmp_path / "own.py").write_text("import beside")
    (tmp_path / "beside.py").write_text(HELPER)
    spec = StudySpec.model_validate(
        {
            "study": "s",
            "objective": "mine.py",
            "direction": "minimize",
            "budget": {"trials": 1},
            "sampler": {"name": "custom", "factory": "own.py:make"},
            "fixed": {"data": "table.csv", "dataset": "digits", "url": "http://no.where/"},
        }
    )
    assert places(spec, tmp_path) == [
        f"objective {tmp_path / 'mine.py'}:objective",
        f"data {tmp_path / 'table.csv'}",
    ]
    before = sampling_code(spec, tmp_path)
    assert sorted(before) == ["beside", "own"]
    (tmp_path / "beside.py").write_text("")
    assert [name for name, digest in sampling_code(spec, tmp_path).items() if digest != before[name]] == [
        "beside"
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"space": {"lr": {**LR, "high": 1.0}}}, "space.lr goes from 0.0001 to 1.0, the objective's own"),
        ({"space": {"lr": {"type": "categorical", "choices": [1, 2]}}}, "the objective asks for float"),
        ({"space": {"kind": {"type": "categorical", "choices": ["a", "c"]}}}, "objective's own lack: 'c'"),
        ({"space": {"rl": FLOAT}}, "space.rl is searched, and nothing in the objective's files asks for it"),
        ({"fixed": {"lr": 0.1}}, "fixed.lr fixes nothing: the objective suggests lr"),
        ({"enqueue": [{"knd": "a"}]}, "suggests knd; did you mean 'kind'?"),
    ],
)
def test_what_would_be_different_in_silence_is_told(
    fields: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    (found,) = told(tmp_path, **fields)
    assert expected in found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"space": {"lr": LR}},
        {"space": {"lr": {**LR, "high": 0.01}, "units_2": {"type": "int", "low": 1, "high": 4}}},
        {"space": {"momentum": FLOAT}, "fixed": {"epochs": 3}},
        {"enqueue": [{"lr": 0.1, "units_0": 3, "kind": "b"}]},
    ],
)
def test_a_study_file_that_fits_its_objective_has_no_notes(fields: dict[str, Any], tmp_path: Path) -> None:
    assert told(tmp_path, **fields) == []


def test_an_objective_that_takes_all_its_parameters_together_may_ask_for_any(tmp_path: Path) -> None:
    whole = "def objective(trial):\n    return train(**trial.config)\n"
    assert told(tmp_path, whole, space={"depth": FLOAT}) == []


@pytest.mark.parametrize("content", ["def objective(trial:", None])
def test_of_a_file_that_cannot_be_read_nothing_is_said(content: str | None, tmp_path: Path) -> None:
    """Importing it says what is wrong."""
    assert told(tmp_path, content or "from . import *\nfrom nowhere import x\n", fixed={"lr": 1}) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "class objective:\n    def __init__(self, data): pass\n",
            "is a class; name a function, or an object",
        ),
        (
            "def objective(trial, X):\n    return 0\n",
            r"takes \(trial, X\); it is called with the trial alone",
        ),
        ("def objective():\n    return 0\n", r"takes \(\); it is called with the trial alone"),
        ("async def objective(trial):\n    return 0\n", "is async, and nobody would wait for it"),
        ("def objective(trial):\n    yield 0\n", "is a generator"),
        ("class C:\n    async def __call__(self, trial): pass\nobjective = C()\n", "is async"),
    ],
)
def test_what_cannot_be_an_objective_is_refused(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(content)
    with pytest.raises(ObjectiveError, match=sentence):
        load_objective(parse_objective("never.py"), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "def objective(trial, folds=3, *rest, **more):\n    return 0\n",
        "from functools import partial\ndef f(X, trial):\n    return 0\nobjective = partial(f, 1)\n",
        "class C:\n    def __call__(self, trial):\n        return 0\nobjective = C()\n",
    ],
)
def test_what_can_be_called_with_a_trial_is_an_objective(content: str, tmp_path: Path) -> None:
    (tmp_path / "fits.py").write_text(content)
    assert load_objective(parse_objective("fits.py"), tmp_path)
