"""One trial trained by several processes, each on a device of its own: its ranks (`gpus_per_trial`).

    def objective(trial):
        with joined(trial) as ranks:  # every rank runs this objective, and here they meet
            model = ranks.wrap(build(trial.config).to(trial.device))
            for inputs, targets in batches:  # of the whole batch, on every rank
                loss = mean_loss(model(ranks.part(inputs)), ranks.part(targets))
                ...

The trial of each rank has a device of its own; `config`, `checkpoint.load()`, `suggest_*` and `should_prune`
answer the same on all of them. The first speaks: what others report, log or save goes nowhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import optuna
import torch
from torch import Tensor
from torch import distributed as dist

from objectives import seeds

_TIMEOUT = timedelta(days=1)  # a rank that dies is noticed at once; what hangs is for `report_timeout`


@dataclass(frozen=True)
class Ranks:
    """The processes that train one trial together, and which of them this is: 0 is the first."""

    rank: int = 0
    size: int = 1

    def wrap(self, model: Any) -> Any:
        """The model for training steps: ranks begin with equal weights, and the mean of gradients counts."""
        return model if self.size == 1 else torch.nn.parallel.DistributedDataParallel(model)

    def part(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch; where ranks have as many each, the gradient is that of the batch."""
        return batch[self.piece(len(batch))]

    def piece(self, count: int) -> slice:
        """The same of a batch of `count` rows, as a slice."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, values: Tensor) -> Tensor:
        """The sum of all ranks' `values`."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        """The first rank's numbers, on all of them; the others hand in as many."""
        if self.size == 1:
            return list(numbers)
        told = torch.tensor(numbers, dtype=torch.float64)
        dist.broadcast(told, 0)
        found: list[float] = told.tolist()
        return found

    def seed(self, seed: int) -> int:
        """This rank's seed, for what each draws by itself, as dropout; the first's is `seed`."""
        return seeds.derive(seed, "rank", self.rank) if self.rank else seed


ALONE = Ranks()


@contextmanager
def joined(trial: Any) -> Iterator[Ranks]:
    """In this block as many ranks train the trial as its study's `gpus_per_trial` says, joined by
    `torch.distributed`; one, where its trial is not the service's.

    What ends the trial on the first rank, also in the midst of an epoch, ends the others.
    """
    join = getattr(trial, "ranks", None)
    if join is None:
        yield ALONE
        return
    with join as place:
        on_cuda = torch.device(trial.device).type == "cuda"
        if on_cuda:
            torch.cuda.set_device(trial.device)
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # nobody else's network need know
            os.environ.setdefault(name, "lo0" if sys.platform == "darwin" else "lo")
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1",
            place.port,
            place.size,
            is_master=place.listener is not None,
            timeout=_TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=place.listener,
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=_TIMEOUT,
        )
        try:
            yield Ranks(place.rank, place.size)
        except optuna.TrialPruned:
            dist.destroy_process_group()
            raise
        dist.destroy_process_group()  # else others may wait in it; then this process is replaced
