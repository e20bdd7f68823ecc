"""Quasi-random points: one for each ticket, however many ask at once."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any, cast

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import create_trial

from hpo.search.samplers import suggest
from tests.support.sampling import SPACE, spec


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("kind", ["sobol", "halton"])
@pytest.mark.parametrize("scramble", [True, False])
@pytest.mark.filterwarnings("error")
def test_every_ticket_has_its_own_point_of_the_sequence(kind: str, scramble: bool) -> None:
    made = spec(
        {"name": "qmc", "qmc_type": kind, "scramble": scramble},
        {"lr": SPACE["lr"], "x": SPACE["momentum"] | {"when": None}},
    )
    nothing = cast(Any, None)
    points = [suggest(made, nothing, nothing, ticket, {}) for ticket in range(64)]
    assert len({point["lr"] for point in points}) == 64
    shares = sorted((math.log(point["lr"]) - math.log(1e-4)) / math.log(0.3 / 1e-4) for point in points)
    if kind == "sobol":
        assert all(i / 64 - 1e-9 <= share <= (i + 1) / 64 + 1e-9 for i, share in enumerate(shares)), (
            "the first 2^n points of a Sobol' sequence have one in each 2^n-th of every dimension"
        )
    else:
        assert max(b - a for a, b in itertools.pairwise(shares)) < 4 / 64


def test_a_condition_does_not_shift_the_other_dimensions() -> None:
    with_child = spec("qmc")
    without = spec("qmc", SPACE | {"momentum": SPACE["momentum"] | {"when": None}})
    nothing = cast(Any, None)
    for ticket in range(16):
        here, there = (suggest(s, nothing, nothing, ticket, {}) for s in (with_child, without))
        assert here["lr"] == there["lr"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_own_qmc_repeats_points_under_concurrency_and_ours_cannot() -> None:
    """Two of Optuna's samplers that read the counter before either writes it take the same point."""

    class Slow(InMemoryStorage):
        barrier = threading.Barrier(2)

        def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
            attrs = super().get_study_system_attrs(study_id)
            self.barrier.wait(timeout=120)
            return attrs

    study = optuna.create_study(storage=Slow())
    dists: dict[str, BaseDistribution] = {"x": FloatDistribution(0.0, 1.0)}
    study.add_trial(create_trial(params={"x": 0.5}, distributions=dists, value=0.0))
    found: list[float] = []

    def ask() -> None:
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=1)
        trial = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
        found.append(sampler.sample_relative(study, trial, dists)["x"])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1], "the control: Optuna's repeats"

    made = spec("qmc", {"x": {"type": "float", "low": 0, "high": 1}})
    nothing = cast(Any, None)
    assert len({suggest(made, nothing, nothing, ticket, {})["x"] for ticket in range(1000)}) == 1000
