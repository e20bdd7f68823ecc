"""A trial that two processes train together, of which any may be killed."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict

import psutil

from tests.faults.lab import Lab
from tests.faults.rows import LONG, Scale

OBJECTIVE = '''
import glob
import os
import time

import optuna
import torch

from objectives.ranks import joined
from objectives.seeds import digest


def objective(trial):
    """One of three is pruned after its first epoch; another fails, but not on the first rank."""
    x, held = trial.params["x"], trial.config["held"]
    with joined(trial) as ranks:

        def note(*words):
            file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, (" ".join(map(str, (*words, x, ranks.rank, os.getpid()))) + "\\n").encode())
            os.close(file)

        def kills():
            return len(glob.glob(os.path.dirname(os.environ["JOURNAL"]) + "/killed-*"))

        torch.manual_seed(0)
        inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
        model = torch.nn.Linear(8, 1)
        state = trial.checkpoint.load() or {"epoch": 0, "model": model.state_dict()}
        model.load_state_dict(state["model"])
        trained = model if held else ranks.wrap(model)
        note("from", state["epoch"])
        for epoch in range(state["epoch"] + 1, trial.config["epochs"] + 1):
            for _ in range(4):
                model.zero_grad()
                loss = (trained(ranks.part(inputs)) - ranks.part(targets)).square().mean()
                loss.backward()
                for weight in model.parameters():
                    mean = weight.grad if trained is not model else ranks.total(weight.grad) / ranks.size
                    weight.data -= 0.02 * mean
                trial.check()
            time.sleep(trial.config["step_seconds"])
            if x % 3 == 2 and ranks.rank:
                raise ValueError("not here")
            note("trained", epoch, digest(model.parameters()))
            trial.report(1000.0 * (x % 3 == 1) + epoch / 100, epoch)
            trial.checkpoint.save({"epoch": epoch, "model": model.state_dict()}, epoch)
            if trial.should_prune():
                note("pruned")
                raise optuna.TrialPruned
            while held and kills() < min(epoch // 3, 2):
                time.sleep(0.05)
    return float(x)
'''


def killed_ranks(lab: Lab, scale: Scale) -> str:
    """Any rank dies: its attempt ends with all ranks, and the trial goes on from its checkpoint."""
    (lab.folder / "ranked.py").write_text(OBJECTIVE)
    long, kills = scale is LONG, 50 if scale is LONG else 2
    cells, epochs = (30, 60) if long else (3, 8)
    lab.create(
        cells=cells,
        objective="ranked.py",
        gpus_per_trial=2,
        pruner={"name": "threshold", "upper": 500.0},
        fixed={"epochs": epochs, "step_seconds": 0.3 if long else 0.0, "held": not long},
    )
    worker = lab.worker("--runners", "2")

    def trained() -> list[tuple[int, int, int, int, str]]:
        """What the journal says of each epoch: x, epoch, rank, pid, digest of the weights."""
        return [
            (int(x), int(epoch), int(rank), int(pid), weights)
            for epoch, weights, x, rank, pid in lab.journal_lines("trained")
        ]

    def held() -> dict[int, int]:
        """The pids of both ranks by rank, once they wait to be killed: whichever attempt theirs is."""
        at = {rank: (epoch, pid) for x, epoch, rank, pid, _ in trained() if x == 0 and psutil.pid_exists(pid)}
        waits = set(at) == {0, 1} and at[0][0] == at[1][0] and at[0][0] // 3 > lab.kills["rank"]
        return {rank: pid for rank, (_, pid) in at.items() if waits and pid not in dead}

    dead: set[int] = set()
    for kill in range(kills):
        if long:
            before = len(trained())
            lab.wait(lambda before=before: len(trained()) > before or lab.ended(), "an epoch is trained")
            time.sleep(lab.random.uniform(1, 3))
            there = lab.wait(lambda: [*lab.runners(), *worker.children("hpo.runner.ranks")], "a rank lives")
            victim = lab.random.choice(there).pid
        else:
            at = lab.wait(lambda: len(held()) == 2 and held(), "both ranks wait")
            dead, victim = {*dead, *at.values()}, at[1 - kill]
        with contextlib.suppress(psutil.Error):
            psutil.Process(victim).kill()
            lab.kills["rank"] += 1
            (lab.folder / f"killed-{kill}").touch()
    lab.wait_for_end(600)
    found = lab.audit()
    assert found.holds, [check for check in found.checks if not check.holds]
    steps: dict[str, list[list[int]]] = defaultdict(list)
    for trial in lab.trials():
        steps[trial.state.name].append(sorted(trial.intermediate_values))
    each = cells // 3
    assert lab.kills["rank"] == kills
    assert steps["COMPLETE"] == [[*range(1, epochs + 1)]] * each
    assert (steps["PRUNED"], len(steps["FAIL"])) == ([[1]] * each, each)
    assert all("on rank 1 of 2: " in why and "not here" in why for why in lab.ended_why("failed"))
    weights_of, ranks_of = defaultdict(set), defaultdict(set)
    for x, epoch, rank, _, weights in trained():
        weights_of[x, epoch].add(weights)
        ranks_of[x, epoch].add(rank)
    assert all(len(weights) == 1 for weights in weights_of.values()), (
        "all ranks of all attempts have equal weights"
    )
    alone = [(x, epoch) for (x, epoch), ranks in ranks_of.items() if x % 3 != 2 and ranks != {0, 1}]
    assert len(alone) <= lab.attempts()["lost"] - 2, (
        "only a rank that was killed has not come to say what it had"
    )
    assert {rank for _, rank, _ in lab.journal_lines("pruned")} == {"0", "1"}, "every rank hears of it"
    pids = {pid for _, _, _, pid, _ in trained()}
    lab.wait(lambda: not pids & set(psutil.pids()), "no rank is left behind")
    again = len(trained()) - 2 * each * (epochs + 1)
    return (
        f"{lab.kills['rank']} ranks killed, {lab.attempts().get('lost', 0)} attempts lost; {cells} trials "
        f"once each, weights equal on both ranks at each of {len(weights_of)} epochs, {again} trained again"
    )
