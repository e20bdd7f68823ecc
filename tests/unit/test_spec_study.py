"""What a study file may say, and the sentence for what it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from hpo.errors import SpecError, UserError
from hpo.spec import (
    StudySpec,
    load_spec,
    parse_spec,
    spec_differences,
)
from tests.support.study_files import BASE, FULL, complaint, in_full, study

# The whole file


@pytest.mark.parametrize("named", ["/elsewhere/mine.py:f", "../mine.py", "package.module:f", "os:system"])
def test_an_objective_is_a_name_of_what_is_on_the_machine(named: str) -> None:
    """Wherever there; what is no name, a line of code say, is none."""
    assert study(objective=named).objective == named
    for code in ("lambda trial: 0", "os.system('true'):f", "mine.py:f()", "true; mine.sh"):
        assert "module, module:callable or path/to/file.py:callable" in complaint(objective=code)


def test_the_documented_study_file_is_accepted() -> None:
    spec = parse_spec(FULL)
    assert spec.directions == ("maximize",)
    assert spec.sampler.name == "tpe"
    assert spec.sampler.seed == 0
    assert spec.budget.target == 0.985
    assert list(spec.space) == ["lr", "hidden", "optimizer", "momentum"]
    assert spec.enqueue == ({"lr": 0.01, "hidden": 64, "optimizer": "adam"},)
    assert spec.fixed["batch_size"] == 64
    assert spec.tickets == 60


def test_the_smallest_study_file_has_documented_defaults() -> None:
    spec = parse_spec("study: s\nobjective: m\ndirection: minimize\nbudget: {seconds: 1}")
    assert (spec.sampler.name, spec.sampler.seed, spec.pruner.name) == ("tpe", 0, "none")
    assert (spec.retry.lost, spec.retry.failed, spec.threads) == (3, 0, 1)
    assert spec.space == {}
    assert spec.fixed == {}
    assert spec.tickets is None


def test_a_stored_spec_reads_back_as_the_same_spec() -> None:
    spec = parse_spec(FULL)
    stored = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert StudySpec.model_validate(stored) == spec
    assert StudySpec.model_validate(stored).digest == spec.digest


def test_a_spec_cannot_be_changed() -> None:
    spec = study()
    with pytest.raises(ValidationError):
        spec.study = "other"  # type: ignore[misc]


def test_every_problem_is_told_at_once_with_its_line() -> None:
    text = FULL.replace("trials: 60", "trials: 0").replace("threads: 1", "threads: many")
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "digits.yaml")
    assert str(caught.value).splitlines() == [
        "digits.yaml, line 6: budget.trials must be at least 1, got 0",
        "digits.yaml, line 9: threads must be a whole number, got 'many'",
    ]


def test_at_most_ten_problems_are_told() -> None:
    lines = complaint(fixed=1, **{f"key{i}": 1 for i in range(30)}).splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("... and ")


def test_a_wrong_study_file_is_the_users_mistake() -> None:
    assert issubclass(SpecError, UserError)
    assert SpecError.exit_code == 2


@pytest.mark.parametrize("text", ["[1, 2]", "hello", "3", "null"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"spec.*: must be a mapping with at least study, objective"):
        parse_spec(text)


@pytest.mark.parametrize("key", ["study", "objective"])
def test_required_fields_are_named(key: str) -> None:
    data = {name: value for name, value in BASE.items() if name != key}
    with pytest.raises(SpecError, match=f"spec: {key} is required"):
        parse_spec(data)


# Names


@pytest.mark.parametrize("name", ["digits-mlp", "a", "A 1", "x_2", "v1.2+b", "größe", "数字", "x" * 66])
def test_a_study_can_have_this_name(name: str) -> None:
    assert study(study=name).study == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "must not be empty"),
        (" ", "must start with a letter or digit"),
        ("..", "must start with a letter or digit"),
        (".hidden", "must start with a letter or digit"),
        ("../../etc/passwd", "must start with a letter or digit"),
        ("a/b", "hold only letters, digits, spaces"),
        ("a\\b", "hold only letters"),
        ("'; DROP TABLE studies; --", "must start with a letter or digit"),
        ("x'; DROP TABLE studies; --", "hold only letters"),
        ("a\0b", "cannot be printed"),
        ("a\nb", "cannot be printed"),
        ("a\u202eb", "cannot be printed"),
        ("<script>", "must start with"),
        ("ends.", "not end in a dot"),
        ("ends ", "not end in a dot or space"),
        ("x" * 600, "has 600 characters"),
        ("字" * 90, "200 bytes"),
        (5, "must be text, got 5; put it in quotes"),
        (None, "must be text, got null"),
        (True, "must be text, got true"),
    ],
)
def test_a_study_cannot_have_this_name(name: Any, why: str) -> None:
    message = complaint(study=name)
    assert message.startswith("spec: study ")
    assert why in message
    assert len(message) < 400
    assert "\0" not in message


def test_names_are_composed_so_that_equal_looking_ones_are_equal() -> None:
    assert study(study="gro\u0308ße").study == "größe"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "a parameter needs a name that is not empty"),
        ("x" * 101, "has 101 characters; at most 100"),
        ("a\nb", "cannot be printed"),
        (1, "the name 1 must be text"),
        (True, "the name true must be text"),
    ],
)
def test_a_parameter_cannot_have_this_name(name: Any, why: str) -> None:
    assert why in complaint(space={name: {"type": "int", "low": 0, "high": 1}})


# Objective


@pytest.mark.parametrize(
    ("text", "module", "file", "name"),
    [
        ("objectives.classifier", "objectives.classifier", None, "objective"),
        ("m:train", "m", None, "train"),
        ("m:Trainer.run", "m", None, "Trainer.run"),
        ("train.py", None, "train.py", "objective"),
        ("path/to/file.py:run", None, "path/to/file.py", "run"),
        ("../x y/file.py:run", None, "../x y/file.py", "run"),
        ("C:\\code\\file.py", None, "C:\\code\\file.py", "objective"),
        ("C:\\code\\file.py:run", None, "C:\\code\\file.py", "run"),
    ],
)
def test_an_objective_is_a_module_or_a_file(
    text: str, module: str | None, file: str | None, name: str
) -> None:
    path = study(objective=text).objective_path
    assert (path.module, path.file, path.callable) == (module, file, name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must name a callable"),
        (None, "must name a callable"),
        ("a/b", "a file's name ends in .py"),
        ("a-b", "is neither a module nor a .py file"),
        ("m:", "no valid callable after the colon"),
        ("m:1x", "no valid callable"),
        ("m:f()", "no valid callable"),
        ("m\0:f", "must be printable"),
        ("x" * 2000, "at most 1000 characters"),
        (3, "must name a callable"),
    ],
)
def test_anything_else_is_no_objective(text: Any, why: str) -> None:
    assert why in complaint(objective=text)


# Directions


def test_several_directions_keep_their_order() -> None:
    data = {key: value for key, value in BASE.items() if key != "direction"}
    spec = parse_spec(data | {"directions": ["maximize", "minimize"]})
    assert spec.directions == ("maximize", "minimize")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": ["minimize"]}, "direction cannot stand beside `directions`"),
        (
            {"direction": "minimise"},
            "direction must be minimize or maximize, got 'minimise'; did you mean 'minimize'?",
        ),
        ({"direction": ["minimize"]}, "direction must be minimize or maximize, got ['minimize']"),
        ({"direction": None}, "direction must be minimize or maximize, got null"),
    ],
)
def test_a_direction_is_one_of_two_words(changes: dict[str, Any], message: str) -> None:
    assert message in complaint(**changes)


def test_a_misspelt_direction_is_told_beside_the_missing_one() -> None:
    data = {key: value for key, value in BASE.items() if key != "direction"} | {"directon": "minimize"}
    with pytest.raises(SpecError) as caught:
        parse_spec(data)
    assert "spec: direction is required: minimize or maximize" in str(caught.value)
    assert "spec: directon is unknown; did you mean 'direction'?" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "direction is required"),
        ({"directions": []}, "directions must hold at least one"),
        ({"directions": ["minimize", "up"]}, "directions.1 must be minimize or maximize, got 'up'"),
        ({"directions": ["minimize"] * 2, "pruner": "median"}, "pruner cannot prune with several directions"),
        ({"directions": ["minimize"] * 2, "budget": {"target": 1}}, "budget.target needs a single direction"),
        ({"directions": ["minimize"] * 2, "sampler": "cmaes"}, "sampler.name cmaes needs a single direction"),
        ({"directions": ["minimize"] * 2, "sampler": "rungs"}, "sampler.name rungs needs a single direction"),
    ],
)
def test_several_directions_exclude_what_needs_one(changes: dict[str, Any], message: str) -> None:
    data = {key: value for key, value in BASE.items() if key != "direction"}
    with pytest.raises(SpecError) as caught:
        parse_spec(data | changes)
    assert message in str(caught.value)


# Lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "  lr: {type: float, low: 0, high: 1, log: true}",
            "line 11: space.lr.low must be above 0 on a log scale, got 0",
        ),
        (
            "  momentum: {type: int, low: 1, high: 2, when: {optimiser: sgd}}",
            "line 14: space.momentum.when.optimiser",
        ),
        ("pruner: {name: asha}", "digits.yaml, line 5: pruner.max_epochs is required"),
        ("enqueue: [{lr: 7}]", "digits.yaml, line 8: enqueue.0.lr must lie between 0.0001 and 0.3, got 7"),
        ("direction: up", "digits.yaml, line 3: direction must be minimize or maximize, got 'up'"),
        ("fixed: {lr: 3}", "digits.yaml, line 15: fixed.lr stands under `space` too"),
    ],
)
def test_a_problem_names_its_line(line: str, message: str) -> None:
    assert message in in_full(line)


# Identity


@pytest.mark.parametrize(
    "override",
    [
        "budget.trials=7",
        "budget.seconds=5",
        "budget.target=null",
        "retry.lost=0",
        "notes=hello",
        "sampler.seed=0",
    ],
)
def test_budget_retry_and_notes_leave_the_study_the_same(override: str) -> None:
    here, stored = parse_spec(FULL, overrides=[override]), parse_spec(FULL)
    assert here.digest == stored.digest
    assert spec_differences(here, stored) == []


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("sampler.seed=1", "sampler.seed: 1 here, 0 in the stored study"),
        ("threads=2", "threads: 2 here, 1 in the stored study"),
        ("space.lr.low=0.001", "space.lr.low: 0.001 here, 0.0001 in the stored study"),
        ("fixed.epochs=5", "fixed.epochs: 5 here, 20 in the stored study"),
        ("fixed.extra=5", "fixed.extra: 5 here, absent in the stored study"),
        ("direction=minimize", "direction: 'minimize' here, 'maximize' in the stored study"),
        ("enqueue=[]", "enqueue: [] here, [{lr: 0.01, hidden: 64, optimizer: 'adam'}] in the stored study"),
        ("objective=mine", "objective: 'mine' here, 'objectives.classifier' in the stored study"),
    ],
)
def test_everything_else_makes_another_study_and_is_told(override: str, difference: str) -> None:
    here, stored = parse_spec(FULL, overrides=[override]), parse_spec(FULL)
    assert here.digest != stored.digest
    assert spec_differences(here, stored) == [difference]


def test_the_order_of_a_file_does_not_make_another_study() -> None:
    lines = FULL.splitlines()
    moved = [*lines[3:9], *lines[:3], *lines[9:]]
    assert parse_spec("\n".join(moved)).digest == parse_spec(FULL).digest


def test_a_digest_stays_the_same_from_release_to_release() -> None:
    assert parse_spec(FULL).digest == DIGEST


DIGEST = "2b454e055e9781c8180e533d753efb2e6916829358e534b848c98d5f6afe2e79"


def test_a_study_file_is_read_from_disk(tmp_path: Any) -> None:
    file = tmp_path / "digits.yaml"
    file.write_text(FULL)
    assert load_spec(file) == parse_spec(FULL)
    file.write_text(FULL.replace("0.3, log", "0.3, lgo"))
    with pytest.raises(
        SpecError, match=r"^digits.yaml, line 11: space.lr.lgo is unknown; did you mean 'log'"
    ):
        load_spec(file)


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("direction", "max", "maximize"),
        ("direction", "MIN", "minimize"),
        ("sampler", "TPE", "tpe"),
        ("sampler", "CmaEsSampler", "cmaes"),
        ("sampler", "NSGAIISampler", "nsga2"),
        ("pruner", "MedianPruner", "median"),
        ("pruner", "SuccessiveHalvingPruner", "asha"),
    ],
)
def test_what_optuna_calls_it_is_answered_by_what_it_is_called_here(
    field: str, written: str, meant: str
) -> None:
    text = {"study": "s", "objective": "m", "direction": "minimize", "budget": {"trials": 1}, field: written}
    with pytest.raises(SpecError, match=f"did you mean '{meant}'"):
        parse_spec(text)


def test_constraints_are_bounds_and_part_of_what_a_study_is() -> None:
    base = {"study": "s", "objective": "m", "direction": "minimize", "budget": {"trials": 1}}
    plain = parse_spec(base)
    bound = parse_spec({**base, "constraints": {"parameters": "<= 1e5", "f1": ">=.9"}})
    assert bound.constraints == {"parameters": "<= 100000.0", "f1": ">= 0.9"}
    assert (
        parse_spec({**base, "constraints": {"f1": ">= 0.90", "parameters": "<=100000"}}).digest
        == bound.digest
    )
    assert parse_spec({**base, "constraints": {}}).digest == plain.digest != bound.digest
    assert parse_spec(bound.model_dump(mode="json")) == bound
    for wrong in ("0.5", "< 0.5", "<= x", "<= nan", "= 1", 0.5, None):
        with pytest.raises(SpecError, match=r'constraints.loss must be a bound like "<= 0.5"'):
            parse_spec({**base, "constraints": {"loss": wrong}})


def test_a_trial_has_several_gpus_or_a_lane() -> None:
    assert study(gpus_per_trial=1).digest == study().digest != study(gpus_per_trial=2).digest
    assert "cannot stand beside lanes" in complaint(gpus_per_trial=2, lanes="auto")
    assert "must be" in complaint(gpus_per_trial=0)


def test_lanes_are_part_of_a_study_unless_there_is_one() -> None:
    assert study(lanes=1).digest == study().digest
    assert len({study(lanes=lanes).digest for lanes in (1, 8, "auto")}) == 3
    assert (study().most_lanes, study(lanes=8).most_lanes) == (1, 5), "no more than there are trials"
    many = {"budget": {"trials": 500}, "lanes": "auto"}
    assert (study(**many).most_lanes, study(**many, sampler="random").most_lanes) == (16, 64)
    for wrong in (0, 2000, "many", 1.5, True):
        assert "must be" in complaint(lanes=wrong)
    assert "a program is one trial" in complaint(lanes=2, objective=None, command=["x", "{x}"])
