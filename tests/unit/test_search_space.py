"""Distributions, grid cells, random points and enqueued points of a search space."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.errors import SpecError
from hpo.search.draws import from_unit, sampler_seed, to_unit, training_seed, unit
from hpo.search.space import check_point, distribution, grid_points, random_point
from hpo.spec import StudySpec, parse_spec
from hpo.spec.conditions import active
from hpo.spec.grid import count_cells
from tests.support.drawn import drawn


def study(sampler: str = "random", budget: Any = None, **space: Any) -> StudySpec:
    return parse_spec(
        {
            "study": "s",
            "objective": "m",
            "direction": "minimize",
            "sampler": sampler,
            "budget": budget or ({} if sampler == "grid" else {"trials": 100}),
            "space": space,
        }
    )


def floating(low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, **more}


def whole(low: int, high: int, **more: Any) -> dict[str, Any]:
    return {"type": "int", "low": low, "high": high, **more}


def choice(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(choices), **more}


OPTIMIZERS: dict[str, Any] = {
    "opt": choice("sgd", "adam"),
    "nesterov": choice(True, False, when={"opt": "sgd"}),
    "momentum": floating(0, 0.9, points=[0.5, 0.9], when={"opt": "sgd", "nesterov": True}),
    "lr": floating(1e-3, 1e-1, log=True, points=3),
}


# Distributions


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (floating(0, 1), FloatDistribution(0.0, 1.0)),
        (floating(1e-4, 1, log=True), FloatDistribution(1e-4, 1.0, log=True)),
        (floating(0, 1, step=0.25), FloatDistribution(0.0, 1.0, step=0.25)),
        (floating(0, 1, step=0.3), FloatDistribution(0.0, 0.9, step=0.3)),
        (whole(1, 9), IntDistribution(1, 9)),
        (whole(1, 9, log=True), IntDistribution(1, 9, log=True)),
        (whole(16, 255, step=16), IntDistribution(16, 240, step=16)),
        (choice("a", 1, None), CategoricalDistribution(("a", 1, None))),
        ({"type": "categorical", "choices": {"s": [1], "l": [2]}}, CategoricalDistribution(("s", "l"))),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_parameter_becomes_optunas_distribution_without_a_warning(parameter: Any, expected: Any) -> None:
    made = distribution(study(x=parameter).space["x"])
    assert made == expected


# Grids


def test_a_grid_visits_every_combination_with_the_last_name_fastest() -> None:
    points = grid_points(study("grid", a=whole(1, 2), b=choice("x", "y")))
    assert points == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (floating(0, 1, step=0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        (floating(0, 1, points=3), [0.0, 0.5, 1.0]),
        (floating(1, 100, log=True, points=3), [1.0, 10.0, 100.0]),
        (floating(0, 1, points=[0.9, 0.1]), [0.9, 0.1]),
        (floating(0, 1, step=0.5, points=2), [0.0, 1.0]),
        (floating(0, 1, step=0.3), [0.0, 0.3, 0.6, 0.9]),
        (whole(1, 4), [1, 2, 3, 4]),
        (whole(0, 10, step=4), [0, 4, 8]),
        (whole(1, 100, log=True, points=3), [1, 10, 100]),
        (whole(1, 3, points=10), [1, 2, 3]),
        (whole(16, 256, points=[16, 64, 256]), [16, 64, 256]),
    ],
)
def test_a_parameter_has_these_values_in_a_grid(parameter: Any, values: list[Any]) -> None:
    found = [point["x"] for point in grid_points(study("grid", x=parameter))]
    assert found == pytest.approx(values)
    assert all(type(a) is type(b) for a, b in zip(found, values, strict=True))
    dist = distribution(study("grid", x=parameter).space["x"])
    assert all(dist._contains(dist.to_internal_repr(value)) for value in found)


def test_cells_of_a_grid_are_the_distinct_active_assignments() -> None:
    points = grid_points(study("grid", **OPTIMIZERS))
    heads = [tuple(point.get(name) for name in ("opt", "nesterov", "momentum")) for point in points]
    assert list(dict.fromkeys(heads)) == [
        ("sgd", True, 0.5),
        ("sgd", True, 0.9),
        ("sgd", False, None),
        ("adam", None, None),
    ]
    assert len(points) == 4 * 3
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    assert all(name in point for point in points if point["opt"] == "sgd" for name in ("nesterov", "lr"))
    assert all("momentum" not in point for point in points if point["opt"] == "adam")


def test_a_grid_has_the_same_order_every_time_and_stops_at_the_budget() -> None:
    whole_grid = grid_points(study("grid", **OPTIMIZERS))
    assert grid_points(study("grid", **OPTIMIZERS)) == whole_grid
    assert grid_points(study("grid", {"trials": 5}, **OPTIMIZERS)) == whole_grid[:5]
    assert grid_points(study("grid", {"trials": 500}, **OPTIMIZERS)) == whole_grid


def test_further_cells_of_a_grid_follow_the_ones_it_has() -> None:
    everything = grid_points(study("grid", **OPTIMIZERS))
    assert grid_points(study("grid", {"trials": 8}, **OPTIMIZERS), skip=5) == everything[5:8]
    assert grid_points(study("grid", {"trials": 4}, **OPTIMIZERS), skip=5) == []
    assert grid_points(study("grid", **OPTIMIZERS), skip=5) == everything[5:]


def test_a_cut_grid_may_be_cut_from_a_huge_one() -> None:
    space = {f"p{i}": whole(1, 100) for i in range(8)}
    assert len(grid_points(study("grid", {"trials": 10}, **space))) == 10


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Small spaces of categorical and int parameters with random, acyclic conditions."""
    space: dict[str, Any] = {}
    for name in draw(st.permutations("abcde"))[: draw(st.integers(1, 5))]:
        low = draw(st.integers(0, 2))
        made = choice(*"xyz"[: draw(st.integers(1, 3))]) if draw(st.booleans()) else whole(low, low + 2)
        parents = draw(st.lists(st.sampled_from(sorted(space)), unique=True, max_size=2)) if space else []
        when = {}
        for parent in parents:
            owner = space[parent]
            values = owner.get("choices") or list(range(owner["low"], owner["high"] + 1))
            when[parent] = draw(st.lists(st.sampled_from(values), unique=True, min_size=1))
        space[name] = made | ({"when": when} if when else {})
    return space


@given(spaces(), st.data())
@drawn(150)
def test_a_grid_is_what_a_full_product_leaves_when_inactive_names_are_dropped(
    space: dict[str, Any], data: st.DataObject
) -> None:
    shuffled = {name: space[name] for name in data.draw(st.permutations(sorted(space)))}
    try:
        spec = study("grid", **shuffled)
    except SpecError as error:
        assume("can never be met" not in str(error))
        raise
    points = grid_points(spec)
    keys = [tuple(sorted(point.items(), key=str)) for point in points]
    assert len(set(keys)) == len(keys) == count_cells(spec.space) == spec.tickets

    def reduce(assignment: dict[str, Any]) -> tuple[Any, ...]:
        kept: dict[str, Any] = {}
        for _ in space:
            for name, parameter in space.items():
                when = parameter.get("when", {})
                if all(kept.get(p, "inactive") in values for p, values in when.items()):
                    kept[name] = assignment[name]
        return tuple(sorted(kept.items(), key=str))

    product: list[dict[str, Any]] = [{}]
    for name, parameter in space.items():
        values = parameter.get("choices") or list(range(parameter["low"], parameter["high"] + 1))
        product = [{**head, name: value} for head in product for value in values]
    assert set(keys) == {reduce(assignment) for assignment in product}


# Activity


def test_children_are_active_only_under_their_parents_values() -> None:
    spec = study("grid", **OPTIMIZERS)
    assert active(spec.space, {"opt": "sgd", "nesterov": True}) == ["opt", "nesterov", "momentum", "lr"]
    assert active(spec.space, {"opt": "sgd", "nesterov": False}) == ["opt", "nesterov", "lr"]
    assert active(spec.space, {"opt": "adam", "nesterov": True}) == ["opt", "lr"], (
        "an inactive parent is no parent"
    )
    assert active(spec.space, {}) == ["opt", "lr"], "what is undecided opens nothing"


def test_parents_come_before_children_whatever_the_files_order() -> None:
    spec = study(child=floating(0, 1, when={"parent": "x"}), parent=choice("x", "y"))
    assert active(spec.space, {"parent": "x"}) == ["parent", "child"]


# Random points


def test_a_random_point_depends_on_seed_ticket_and_name_only() -> None:
    spec = study(a=floating(0, 1), b=floating(0, 1))
    other = study(b=floating(0, 1), c=choice("x", "y"), a=floating(0, 1))
    for ticket in range(20):
        here, there = random_point(spec, 7, ticket), random_point(other, 7, ticket)
        assert here == {name: there[name] for name in "ab"}
    assert random_point(spec, 7, 3) != random_point(spec, 7, 4)
    assert random_point(spec, 7, 3) != random_point(spec, 8, 3)
    assert random_point(spec, 7, 3)["a"] != random_point(spec, 7, 3)["b"]


def test_random_numbers_stay_the_same_from_release_to_release() -> None:
    assert unit(0, 0, "lr") == 0.8629363022998728
    assert training_seed(0, 0) == 6756608890236192762
    assert sampler_seed(0, 0) == 3536434774


def test_random_points_hold_the_active_parameters_within_bounds() -> None:
    spec = study(**OPTIMIZERS)
    for ticket in range(300):
        point = random_point(spec, 0, ticket)
        assert list(point) == active(spec.space, point)
        for name, value in point.items():
            dist = distribution(spec.space[name])
            assert dist._contains(dist.to_internal_repr(value))


def test_ten_thousand_tickets_draw_ten_thousand_points() -> None:
    spec = study(x=floating(0, 1))
    assert len({random_point(spec, 0, ticket)["x"] for ticket in range(10_000)}) == 10_000


def test_training_seeds_differ_and_fit_in_63_bits() -> None:
    seeds = [training_seed(study_seed, ticket) for study_seed in range(10) for ticket in range(1000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def counts(parameter: dict[str, Any], total: int = 6000) -> Counter[Any]:
    spec = study(x=parameter)
    return Counter(random_point(spec, 1, ticket)["x"] for ticket in range(total))


@pytest.mark.parametrize(
    "parameter",
    [
        choice("a", "b", "c"),
        whole(1, 3),
        whole(0, 8, step=4),
        floating(0, 1, step=0.5),
        floating(0, 0.5, step=0.2),
        floating(1, 5, step=2),
    ],
)
def test_discrete_values_are_equally_likely(parameter: dict[str, Any]) -> None:
    found = counts(parameter)
    assert len(found) == 3
    # 2000 each; four standard deviations of a binomial count are 146
    assert all(abs(count - 2000) < 146 for count in found.values()), found


def kolmogorov(shares: list[float]) -> float:
    """Largest distance between the shares' empirical distribution and the uniform one."""
    shares = sorted(shares)
    return max(max(abs(s - i / len(shares)), abs(s - (i + 1) / len(shares))) for i, s in enumerate(shares))


@pytest.mark.parametrize("log", [False, True])
def test_floats_are_uniform_on_their_scale(log: bool) -> None:
    spec = study(x=floating(1e-4, 10, log=log))
    values = [random_point(spec, 3, ticket)["x"] for ticket in range(4000)]
    if log:
        shares = [(math.log(v) - math.log(1e-4)) / (math.log(10) - math.log(1e-4)) for v in values]
    else:
        shares = [(v - 1e-4) / (10 - 1e-4) for v in values]
    assert kolmogorov(shares) < 1.95 / math.sqrt(4000), "Kolmogorov-Smirnov at 0.1 %"


def test_integers_on_a_log_scale_take_half_a_unit_on_either_side() -> None:
    found = counts(whole(1, 4, log=True))
    width = math.log(4.5) - math.log(0.5)
    for value in range(1, 5):
        expected = 6000 * (math.log(value + 0.5) - math.log(value - 0.5)) / width
        assert abs(found[value] - expected) < 4 * math.sqrt(expected), (value, found[value], expected)


@given(st.floats(0, 1, exclude_max=True))
@drawn()
def test_every_share_maps_into_its_distribution(share: float) -> None:
    for dist in (
        FloatDistribution(-1.0, 3.0),
        FloatDistribution(1e-5, 0.3, log=True),
        FloatDistribution(0.1, 0.7, step=0.2),
        IntDistribution(-5, 10),
        IntDistribution(1, 1000, log=True),
        IntDistribution(3, 11, step=4),
        CategoricalDistribution(("a", None, 2)),
    ):
        assert dist._contains(dist.to_internal_repr(from_unit(dist, share)))


@pytest.mark.parametrize(
    "held",
    [
        FloatDistribution(-1, 3),
        FloatDistribution(1e-4, 0.3, log=True),
        FloatDistribution(0, 1, step=0.25),
        IntDistribution(3, 11, step=4),
        IntDistribution(16, 256, log=True),
    ],
)
def test_a_number_goes_back_to_a_share_from_which_it_is_made(held: Any) -> None:
    values = [from_unit(held, share / 50) for share in range(50)]
    shares = to_unit(held, values)
    assert ((shares >= 0) & (shares < 1)).all()
    assert [from_unit(held, float(share)) for share in shares] == pytest.approx(values, rel=1e-12)


# Points that a person gives


def test_a_partial_point_is_kept_partial_and_normalised() -> None:
    spec = study(**OPTIMIZERS)
    assert check_point(spec, {"lr": 0.01}) == {"lr": 0.01}
    assert check_point(spec, {"momentum": 0}) == {"momentum": 0.0}, "its parents are still open"
    assert list(check_point(spec, {"nesterov": True, "opt": "sgd"})) == ["opt", "nesterov"]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"lrr": 1}, "lrr is not a parameter of the space; did you mean 'lr'?"),
        ({"lr": 1}, "lr must lie between 0.001 and 0.1, got 1"),
        ({"lr": "0.01"}, "lr must be a number, got '0.01'"),
        ({"lr": True}, "lr must be a number, got true"),
        ({"opt": "adma"}, "opt must be one of 'sgd', 'adam', got 'adma'; did you mean 'adam'?"),
        ({"opt": ["adam"]}, "opt must be one of"),
        ({"nesterov": 1}, "nesterov must be one of true, false, got 1"),
        ({"opt": "adam", "momentum": 0.5}, "momentum exists only when opt is 'sgd'; leave it out"),
        ({"opt": "adam", "nesterov": True}, "nesterov exists only when opt is 'sgd'; leave it out"),
        ({}, "a point must give at least one parameter a value"),
        ([1], "a point must be a mapping"),
    ],
)
def test_a_point_that_does_not_fit_is_refused(point: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_point(study(**OPTIMIZERS), point)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "value", "ok"),
    [
        (floating(0, 1, step=0.1), 0.3, 0.3),
        (floating(0, 1, step=0.1), 0.1 + 0.2, 0.3),
        (floating(0, 1, step=0.3), 1, None),
        (floating(0, 1, step=0.1), 0.35, None),
        (whole(0, 8, step=4), 4, 4),
        (whole(0, 8, step=4), 4.0, 4),
        (whole(0, 8, step=4), 6, None),
        (whole(0, 8), 2.5, None),
        (choice(1, 2), 1.0, 1),
        (choice("1", 1), "1", "1"),
        (choice(None, 1), None, None),
    ],
)
def test_a_point_lies_on_its_parameters_steps(parameter: Any, value: Any, ok: Any) -> None:
    spec = study(x=parameter)
    if ok is None and value is not None:
        with pytest.raises(SpecError, match="x must be"):
            check_point(spec, {"x": value})
    else:
        checked = check_point(spec, {"x": value})["x"]
        assert checked == ok
        assert type(checked) is type(ok)


def test_a_grids_point_must_be_whole() -> None:
    spec = study("grid", **OPTIMIZERS)
    with pytest.raises(SpecError, match="missing: opt"):
        check_point(spec, {"lr": 0.01})
    with pytest.raises(SpecError, match="missing: nesterov"):
        check_point(spec, {"lr": 0.01, "opt": "sgd"})
    assert check_point(spec, {"lr": 0.01, "opt": "adam"}) == {"opt": "adam", "lr": 0.01}


@given(st.integers(0, 10_000))
@drawn(50)
def test_every_random_point_is_a_valid_point(ticket: int) -> None:
    spec = study(**OPTIMIZERS)
    point = random_point(spec, 0, ticket)
    assert check_point(spec, point) == point
