"""Which trials meet what somebody typed."""

from __future__ import annotations

import pytest

from hpo.errors import UserError
from hpo.studies.selection import look_up, select
from tests.report.histories import study, trial

HISTORY = study(
    trial(0, 0.5, params={"lr": 0.1, "optimizer": "adam"}, metrics={"loss": {1: 2.0, 2: 1.0, 3: 1.5}}),
    trial(1, 0.9, params={"lr": 0.01, "optimizer": "sgd", "momentum": 0.9}),
    trial(2, None, "failed", params={"lr": 0.001, "optimizer": "adam w"}, error="CUDA out of memory"),
    trial(3, 0.7, params={"lr": 1, "optimizer": None, "nesterov": True}),
    trial(4, None, "pruned", params={"lr": 0.05, "optimizer": "adam"}),
)


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("lr<=0.01", [1, 2]),
        ("lr=1.0", [3]),
        ("lr<0.1 optimizer=adam", [4]),
        ("optimizer=adam,sgd", [0, 1, 4]),
        ("'optimizer=adam w'", [2]),
        ("optimizer!=adam", [1, 2, 3]),
        ("optimizer=null", [3]),
        ("momentum>0", [1]),
        ("momentum!=0.9", [0, 2, 3, 4]),
        ("nesterov=true", [3]),
        ("state=complete value>0.6", [1, 3]),
        ("state=pruned,failed", [2, 4]),
        ("error~MEMORY", [2]),
        ("loss=1.5", [0]),
        ("min:loss=1 max:loss=2", [0]),
        ("best=1", [1]),
        ("best=34%", [1, 3]),
        ("best=2 optimizer=sgd", [1]),
        ("front=true", [1]),
        ("front!=true value>0", [0, 3]),
    ],
)
def test_trials_meet_every_condition(where: str, numbers: list[int]) -> None:
    assert [found.number for found in select(HISTORY, [where])] == numbers


@pytest.mark.parametrize(
    ("sort", "numbers"),
    [
        ("-value", [1, 3, 0, 2, 4]),
        ("lr", [2, 1, 4, 0, 3]),
        ("-number", [4, 3, 2, 1, 0]),
        ("momentum", [1, 0, 2, 3, 4]),
        ("optimizer", [0, 4, 2, 3, 1]),
        ("-error", [2, 0, 1, 3, 4]),
    ],
)
def test_what_is_sorted_by_an_absent_value_comes_last_whichever_way(sort: str, numbers: list[int]) -> None:
    assert [found.number for found in select(HISTORY, sort=sort)] == numbers
    assert [found.number for found in select(HISTORY, sort=sort, limit=2)] == numbers[:2]


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("optimiser=adam", "did you mean 'optimizer'"),
        ("lr", "'lr' is no condition"),
        ("lr < 0.1", "without spaces"),
        ("lr<small", "'small', which is no number"),
        ("'lr<0.1", "a quote is not closed"),
        ("best=many", "write best=5 or best=10%"),
        ("best<3", "write best=5 or best=10%"),
    ],
)
def test_what_cannot_be_read_is_told(where: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        select(HISTORY, [where])
    assert told in str(caught.value)


def test_a_metric_is_its_last_value_unless_an_extreme_is_asked_for() -> None:
    found = HISTORY.trials[0]
    assert [look_up(found, name) for name in ("loss", "metric:loss", "min:loss", "max:loss")] == [
        1.5,
        1.5,
        1.0,
        2.0,
    ]
    assert look_up(found, "param:lr") == 0.1
    assert look_up(found, "none of its names") is None
