"""Whatever is in a study file, it is accepted or refused in sentences."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import SpecError
from hpo.spec import (
    StudySpec,
    parse_spec,
)
from tests.support.cpu import at_most_cpu
from tests.support.drawn import drawn
from tests.support.study_files import FULL, complaint, study

_leaf = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["tpe", "asha", "grid", "float", "categorical", "minimize", "adam", "lr", "optimizer"])
)
_anything = st.recursive(
    _leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "low", "high", "log", "step", "points", "choices", "when", "lr"])
            | st.text(max_size=3)
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a nested value."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*path, key))
    return found


DATA: dict[str, Any] = yaml.safe_load(FULL)


@given(st.lists(st.tuples(st.sampled_from(places(DATA)), _anything), min_size=1, max_size=2))
@drawn(400)
def test_any_value_anywhere_is_accepted_or_told_in_sentences(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    data = copy.deepcopy(DATA)
    for path, value in changes:
        put(data, path, value)
    try:
        spec = parse_spec(data, "digits.yaml")
    except SpecError as error:
        wrong = [line for line in str(error).split("\n") if not is_a_sentence(line)]
        if wrong:
            raise AssertionError(wrong) from error
    else:
        stored = json.loads(json.dumps(spec.model_dump(mode="json")))
        assert StudySpec.model_validate(stored) == spec
        assert StudySpec.model_validate(stored).digest == spec.digest


def is_a_sentence(line: str) -> bool:
    """Whether a line of an error says where, can be printed safely and is not endless."""
    return line.startswith(("digits.yaml: ", "... and ")) and line.isprintable() and len(line) < 1000


def put(holder: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace the part at `path`, where it is still there."""
    for part in path[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(holder, dict) or (isinstance(holder, list) and path[-1] in range(len(holder))):
        holder[path[-1]] = value


@given(st.binary(max_size=200))
@drawn(200)
def test_any_bytes_are_accepted_or_told_in_sentences(content: bytes) -> None:
    with pytest.raises(SpecError):
        parse_spec(content)


@given(
    st.text(max_size=40), st.sampled_from(["", "budget.trials=", "space.lr.", "sampler=", "enqueue.0.", "="])
)
@drawn(200)
def test_any_override_is_accepted_or_told_in_sentences(text: str, start: str) -> None:
    with contextlib.suppress(SpecError):
        parse_spec(FULL, overrides=[start + text])


def test_a_long_chain_of_conditions_is_checked_quickly() -> None:
    names = [f"p{i}" for i in range(400)]
    chain = {
        name: {"type": "categorical", "choices": ["u", "v"]}
        | ({"when": dict.fromkeys(names[max(0, i - 2) : i], "u")} if i else {})
        for i, name in enumerate(names)
    }
    with at_most_cpu(5):
        assert "p399" in study(space=chain, enqueue=[{"p399": "u"}]).enqueue[0]
        assert "exists only when" in complaint(space=chain, enqueue=[{"p0": "v", "p399": "u"}])


def test_more_than_500_parameters_are_refused() -> None:
    assert "space has 501 parameters; at most 500" in complaint(
        space={f"p{i}": {"type": "int", "low": 0, "high": 1} for i in range(501)}
    )


def test_a_spec_travels_to_another_process() -> None:
    spec = parse_spec(FULL)
    assert pickle.loads(pickle.dumps(spec)) == spec
