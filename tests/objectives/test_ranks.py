"""One training by several processes: it comes to what one alone comes to, and their weights are equal."""

from __future__ import annotations

import multiprocessing
import socket
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

from hpo.runner.ranks import Place
from objectives import classifier
from objectives.errors import ConfigError
from objectives.ranks import ALONE, Ranks
from objectives.seeds import digest
from objectives.standalone import LocalCheckpoint, LocalTrial
from tests.objectives.helpers import QUICK, prepared


class Noting(LocalCheckpoint):
    """Notes a digest of the weights of every state it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[str] = []

    def save(self, state: dict[str, Any], step: int) -> None:
        self.weights.append(digest(state["model"].values()))
        super().save(state, step)


def _train(
    settings: dict[str, Any], place: Place | None = None
) -> tuple[list[float], list[dict[str, float]], list[str]]:
    trial: Any = LocalTrial({**QUICK, "checkpoint_every": 1, "keep": "last", **settings})
    trial.checkpoint = Noting()
    if place is not None:
        trial.ranks = nullcontext(place)
    classifier.objective(trial)
    return list(trial.reports.values()), list(trial.logs.values()), trial.checkpoint.weights


def _rank(settings: dict[str, Any], place: Place, told: Connection) -> None:
    torch.set_num_threads(1)
    told.send(_train(settings, place))


@pytest.mark.parametrize(
    "settings",
    [
        # 4 batches, the last of 3 samples, too few to be split; gradients of two make a step
        {"batch_size": 99, "accumulate": 2, "class_weights": "balanced", "l2": 0.01, "clip_norm": 1.0},
        {"batch_size": 50, "model": "cnn", "optimizer": "sgd", "schedule": "plateau", "frozen_epochs": 1},
    ],
)
def test_two_ranks_come_to_what_one_comes_to(settings: dict[str, Any]) -> None:
    settings = {"objective": "log_loss", "epochs": 4, **settings}
    alone, logged, _ = _train(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    port, fork = listener.getsockname()[1], multiprocessing.get_context("fork")
    ours: list[Connection] = []
    for place in (Place(0, 2, port, listener.fileno()), Place(1, 2, port)):
        receive, send = fork.Pipe(duplex=False)
        fork.Process(target=_rank, args=(settings, place, send), daemon=True).start()
        send.close()
        ours.append(receive)
    (together, beside, weights), (_, _, others) = (one.recv() for one in ours)
    listener.close()
    assert together == pytest.approx(alone, rel=1e-4)
    for one, other in zip(logged, beside, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert other["train_accuracy"] == pytest.approx(one["train_accuracy"], abs=0.01)
    assert weights == others, "after every epoch both have equal weights"
    assert len(set(weights)) == 4, "which differ from epoch to epoch"


def test_every_sample_of_a_batch_is_one_ranks_and_small_batches_are_the_firsts() -> None:
    setups = [prepared(batch_size=59) for _ in range(3)]  # 300 = 5 * 59 + 5
    for rank, setup in enumerate(setups):
        setup.share(Ranks(rank, 3))
    whole = prepared(batch_size=59).batches
    for number, (_, targets) in enumerate(whole.shuffled(1)):
        parts = [list(setup.batches.shuffled(1))[number][1] for setup in setups]
        counted = [
            part
            for part, setup in zip(parts, setups, strict=True)
            if setup.batches.own_weights(1, None)[number]
        ]
        assert torch.equal(torch.cat(counted), targets)
        assert len(counted) == (3 if len(targets) == 59 else 1)


def test_a_batch_that_is_too_small_for_so_many_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size: 3 cannot be split between 2 devices.* use 4 or more"):
        prepared(batch_size=3).share(Ranks(0, 2))
    prepared(batch_size=1).share(ALONE)
