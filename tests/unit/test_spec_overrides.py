"""`--set FIELD=VALUE` on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.spec import (
    parse_spec,
)
from tests.support.study_files import BASE, FULL, in_full


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("budget.trials=7", lambda spec: spec.budget.trials == 7),
        ("space.lr.low=1e-3", lambda spec: spec.space["lr"].low == 1e-3),
        ("sampler=random", lambda spec: spec.sampler.name == "random"),
        ("sampler.seed=3", lambda spec: (spec.sampler.name, spec.sampler.seed) == ("tpe", 3)),
        ("fixed.new.deep=[1, 2]", lambda spec: spec.fixed["new"] == {"deep": [1, 2]}),
        ("enqueue.0.lr=0.2", lambda spec: spec.enqueue[0]["lr"] == 0.2),
        ("notes=a = b", lambda spec: spec.notes == "a = b"),
        ("budget.target=", lambda spec: spec.budget.target is None),
        ("direction=minimize", lambda spec: spec.directions == ("minimize",)),
        (
            "space.optimizer.choices=[sgd, momentum, adam]",
            lambda spec: len(spec.space["optimizer"].choices) == 3,
        ),
    ],
)
def test_any_field_can_be_overridden(override: str, field: Any) -> None:
    assert field(parse_spec(FULL, overrides=[override]))


def test_overrides_apply_in_turn_and_leave_the_file_alone() -> None:
    spec = parse_spec(FULL, overrides=["sampler=random", "sampler.seed=9", "sampler.seed=10"])
    assert (spec.sampler.name, spec.sampler.seed) == ("random", 10)


def test_one_kind_of_direction_replaces_the_other() -> None:
    overrides = ["pruner=none", "budget.target=null", "directions=[maximize, minimize]"]
    assert parse_spec(FULL, overrides=overrides).directions == ("maximize", "minimize")


def test_a_name_with_dots_is_found_by_its_longest_form() -> None:
    data = BASE | {"fixed": {"a.b": {"c": 1}, "a": {"b": 2}}}
    assert parse_spec(data, overrides=["fixed.a.b.c=5"]).fixed == {"a.b": {"c": 5}, "a": {"b": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials", "--set budget.trials: must be PATH=VALUE, such as budget.trials=20"),
        ("=3", "--set =3: must be PATH=VALUE"),
        ("budget..trials=3", "the path has an empty part"),
        ("budget.trials=[1", "--set budget.trials=[1: is not valid YAML"),
        ("budget.trials=0", "--set budget.trials=0: budget.trials must be at least 1, got 0"),
        ("budget.trails=3", "--set budget.trails=3: budget.trails is unknown; did you mean 'trials'?"),
        ("budgt.trials=3", "--set budgt.trials=3: budgt is unknown; did you mean 'budget'?"),
        ("study.name=x", "--set study.name=x: study is 'digits-mlp', which has no part 'name'"),
        ("enqueue.x.lr=1", "enqueue is a list; name an item by its index (0), not 'x'"),
        ("enqueue.4.lr=1", "enqueue has 1 items, counted from 0; there is no 4"),
        ("space.lr.low=0", "--set space.lr.low=0: space.lr.low must be above 0 on a log scale, got 0"),
        ("space.new.low=0", "--set space.new.low=0: space.new.type is required"),
        (
            "sampler={name: tpe, sed: 1}",
            "--set sampler={name: tpe, sed: 1}: sampler.sed is unknown; did you mean 'seed'?",
        ),
    ],
)
def test_a_wrong_override_says_which_one(override: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(FULL, "digits.yaml", [override])
    assert message in str(caught.value)


def test_problems_elsewhere_keep_their_line_beside_overrides() -> None:
    message = in_full("threads: 0", "budget.trials=0")
    assert "digits.yaml, line 9: threads must be at least 1, got 0" in message
    assert "--set budget.trials=0: budget.trials must be at least 1, got 0" in message
