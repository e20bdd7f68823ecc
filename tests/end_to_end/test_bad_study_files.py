"""A wrong study file ends `hpo run` with exit 2 and a sentence that helps, before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest

from tests.end_to_end.workplace import Workplace

FLAG = {"type": "categorical", "choices": ["on", "off"]}
UNIT = {"type": "float", "low": 0.0, "high": 1.0}

WRONG_FIELDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"budgett": {"trials": 3}}, ["line 16", "budgett is unknown", "did you mean 'budget'"]),
    "unknown key of a section": (
        {"sampler": {"name": "random", "sead": 1}},
        ["sampler.sead is unknown", "did you mean 'seed'"],
    ),
    "unknown sampler": ({"sampler": {"name": "tpee"}}, ["sampler.name", "'tpee'", "did you mean 'tpe'"]),
    "low above high": (
        {"space": {"x": {"type": "float", "low": 3, "high": 1}}},
        ["line 14", "space.x.low must be below high (1), got 3"],
    ),
    "low equals high": ({"space": {"x": {"type": "float", "low": 1, "high": 1}}}, ["space.x.low"]),
    "log from 0": (
        {"space": {"x": {"type": "float", "low": 0, "high": 1, "log": True}}},
        ["space.x.low must be above 0 on a log scale, got 0"],
    ),
    "no choices": (
        {"space": {"x": {"type": "categorical", "choices": []}}},
        ["space.x.choices", "one choice"],
    ),
    "a choice twice": (
        {"space": {"x": {"type": "categorical", "choices": ["a", "b", "a"]}}},
        ["space.x.choices.2 repeats the choice 'a'"],
    ),
    "grid over a continuous parameter": (
        {"sampler": {"name": "grid"}, "budget": None},
        ["space.x is continuous", "`step`", "`points`"],
    ),
    "when names no parameter": (
        {"space": {"flag": FLAG, "x": {**UNIT, "when": {"flg": ["on"]}}}},
        ["space.x.when", "'flg'", "does not have"],
    ),
    "when names no value": (
        {"space": {"flag": FLAG, "x": {**UNIT, "when": {"flag": ["onn"]}}}},
        ["space.x.when.flag", "'onn'", "'on', 'off'"],
    ),
    "when in a circle": (
        {"space": {"a": {**FLAG, "when": {"b": ["on"]}}, "b": {**FLAG, "when": {"a": ["on"]}}}},
        ["circle", "a needs b needs a"],
    ),
    "budget of 0 trials": ({"budget": {"trials": 0}}, ["budget.trials must be at least 1, got 0"]),
    "budget of 0 seconds": ({"budget": {"seconds": 0}}, ["budget.seconds", "got 0"]),
    "SQL as a name": (
        {"study": "x'; DROP TABLE hpo_study; --"},
        ["line 1", "study must", "DROP TABLE hpo_study"],
    ),
    "a NUL in the name": ({"study": "a\0b"}, ["study", "cannot be printed", r"a\x00b"]),
    "a path as a name": ({"study": "../../etc/passwd"}, ["study must"]),
    "600 characters as a name": ({"study": "n" * 600}, ["study has 600 characters", "at most 100"]),
    "pruner with several directions": (
        {"direction": None, "directions": ["minimize", "maximize"], "pruner": {"name": "median"}},
        ["pruner", "directions"],
    ),
}


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_a_wrong_field_is_named_with_what_is_allowed(case: str, place: Workplace) -> None:
    fields, said = WRONG_FIELDS[case]
    spec = place.study("wrong", **fields)
    result = place.run(spec).check(2)
    assert result.out == ""
    assert result.err.startswith("hpo: wrong.yaml")
    for part in said:
        assert part in result.err
    assert "Traceback" not in result.err
    assert len(result.err) < 1000
    assert not (place.path / "hpo.db").exists()


def test_check_refuses_what_run_refuses_and_creates_nothing(place: Workplace) -> None:
    spec = place.study("wrong", budget={"trials": 0})
    assert "budget.trials must be at least 1" in place.hpo("check", spec.name).check(2).err
    good = place.study("right")
    result = place.hpo("check", good.name).check()
    assert "right" in result.out
    assert "6 trials" in result.out
    assert not (place.path / "hpo.db").exists()


def test_several_mistakes_are_told_at_once(place: Workplace) -> None:
    spec = place.study("wrong", budget={"trials": -1}, space={"x": {"type": "flot", "low": 0, "high": 1}})
    err = place.hpo("check", spec.name).check(2).err
    assert "budget.trials" in err
    assert "did you mean 'float'" in err


def alias_bomb() -> str:
    """Nine to the power of nine strings, in a few hundred bytes."""
    lines = ["a: &a [" + ",".join(["x"] * 9) + "]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [" + ",".join([f"*{before}"] * 9) + "]")
    return "\n".join(lines)


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "alias bomb": (alias_bomb(), "anchor"),
    "bracket bomb": ("[" * 900_000, "nested deeper"),
    "50 MB": (b"study: big\n#" + b"x" * 50_000_000, "larger than 1,000,000 bytes"),
    "binary garbage": (bytes(range(256)) * 400, "UTF-8"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(64), "UTF-8"),
    "nothing": (b"", "is empty"),
    "no mapping": (b"- a\n- b\n", "mapping"),
    "a tab": (b"study: x\n\tobjective: y\n", "line 2"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_quickly(case: str, place: Workplace) -> None:
    """Built by PyYAML, some of these take 14 seconds, all memory, or crash the process."""
    content, said = HOSTILE[case]
    place.write("hostile.yaml", content)
    result = place.hpo("run", "hostile.yaml", timeout=120).check(2)  # 0.6 s on an idle machine
    assert result.err.startswith("hpo: hostile.yaml")
    assert said in result.err
    assert "Traceback" not in result.err
    assert len(result.err) < 500
    assert not (place.path / "hpo.db").exists()


def test_a_file_that_is_not_there_is_refused_with_the_nearest_name(place: Workplace) -> None:
    place.study("digits")
    err = place.hpo("run", "digit.yaml").check(2).err
    assert "digit.yaml: there is no such file" in err
    assert "did you mean 'digits.yaml'" in err


@pytest.mark.parametrize(
    "override", ["budget.trails=3", "budget.trials=none", "budget", "=3", "space.x.low=99"]
)
def test_a_wrong_override_is_named(override: str, place: Workplace) -> None:
    spec = place.study("s")
    err = place.run(spec, "--set", override).check(2).err
    assert override in err
    assert "Traceback" not in err
    assert not (place.path / "hpo.db").exists()


@pytest.mark.parametrize("runners", ["0", "-1", "two"])
def test_a_wrong_number_of_runners_is_refused_before_anything_is_stored(
    runners: str, place: Workplace
) -> None:
    spec = place.study("s")
    assert "--runners" in place.hpo("run", spec.name, "--runners", runners).check(2).err
    assert not (place.path / "hpo.db").exists()


OBJECTIVES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no such module": ({"objective": "no_such_module.train"}, ["no module", "no_such_module", ".py"]),
    "no such file": ({"objective": "missing.py"}, ["there is no file", "missing.py"]),
    "no such callable": ({"objective": "bad.py:trian"}, ["no callable named trian", "train"]),
    "not callable": ({"objective": "bad.py:number"}, ["number is not callable, it is int"]),
    "a library is missing": ({"objective": "needy.py"}, ["needy.py", "No module named 'no_such_library'"]),
    "a traceback of its own": (
        {"objective": "boom.py"},
        ["boom.py", "line 2, in load", "RuntimeError: the data are not here"],
    ),
    "a syntax error": ({"objective": "syntax.py"}, ["SyntaxError"]),
    "an exit on import": ({"objective": "exits.py"}, ["exits.py", "SystemExit"]),
}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_an_objective_that_cannot_be_had_stops_check_with_the_reason(case: str, place: Workplace) -> None:
    fields, said = OBJECTIVES[case]
    spec = broken_objectives(place, **fields)
    result = place.hpo("check", spec.name).check(2)
    for part in said:
        assert part in result.err
    assert "importlib" not in result.err, "frames that are not the user's tell them nothing"


def test_a_run_with_a_broken_objective_leaves_nothing_so_that_mending_it_is_enough(place: Workplace) -> None:
    """A first mistake must not occupy the study's name."""
    spec = broken_objectives(place, objective="boom.py")
    result = place.run(spec, runners=2).check(2)
    assert "RuntimeError: the data are not here" in result.err
    assert place.hpo("ls", "--format", "json").check().json == []
    place.run(place.study("bad")).check()


def broken_objectives(place: Workplace, **fields: Any) -> Any:
    place.write("bad.py", "number = 3\n\ndef train(trial):\n    return 1.0\n")
    place.write("needy.py", "import no_such_library\n")
    place.write("boom.py", "def load():\n    raise RuntimeError('the data are not here')\nload()\n")
    place.write("syntax.py", "def objective(trial:\n")
    place.write("exits.py", "import sys\nsys.exit(3)\n")
    return place.spec("bad", **fields)


def test_an_objective_that_ends_its_runner_on_import_ends_the_run(place: Workplace) -> None:
    """Runners are started again when they die, but not for ever when none comes to a trial."""
    spec = place.study("gone", "import os\nos._exit(9)\n")
    result = place.run(spec).check(1)
    assert "exit status 9" in result.err
    assert place.show("gone")["trials"]["waiting"] == 6
