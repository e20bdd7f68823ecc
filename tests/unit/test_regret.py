"""How often pruning threw away one of the best, told from a sample, where the truth is known."""

from __future__ import annotations

import numpy as np

from hpo.search.draws import in_sample
from hpo.studies.regret import Regret, sentence, share
from tests.bench.search.record import load
from tests.bench.search.tasks import TASKS


def test_the_true_share_lies_in_the_interval_where_all_were_trained_in_full() -> None:
    """Searches of 100 recorded trainings, halved after 2 and 6 of 20 epochs; samples of 20 of the pruned."""
    (task,) = (task for task in TASKS if task.name == "digits")
    curves = np.nan_to_num(load(task).curves, nan=0.0)
    held = widths = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mine = curves[rng.choice(len(curves), 100, replace=False)]
        left = np.arange(100)
        for epoch in (2, 6):
            left = left[np.argsort(-mine[left, epoch - 1], kind="stable")[: len(left) // 2]]
        pruned = np.setdiff1d(np.arange(100), left)
        bar = np.sort(mine[left, -1])[-5]
        missed = mine[pruned, -1] >= bar
        order = sorted(range(len(pruned)), key=lambda n: in_sample(seed, int(pruned[n])))
        low, high = share(int(missed[order[:20]].sum()), 20, len(pruned))
        held += low <= missed.mean() <= high
        widths += high - low
        assert share(int(missed.sum()), len(pruned), len(pruned)) == (missed.mean(), missed.mean())
    assert held >= 8
    assert widths / 10 < 0.3


def test_what_came_to_nothing_is_a_sentence_too() -> None:
    """Of a study whose trials never reported, and whose sample all failed."""
    found = Regret(True, 3, 1, (), 0, 0.0, 1.0, 0.5, None, 0.0, 0.0, 0)
    assert "Pruning saved about 0 epochs and 0 s of work, 0 % of" in sentence(found)
