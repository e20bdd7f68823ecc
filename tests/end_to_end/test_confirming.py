"""`confirm` in a study file: the winner is trained again before the test set is seen, whatever dies."""

from __future__ import annotations

import json
import signal
from collections import Counter

from tests.end_to_end.workplace import Workplace
from tests.support.waiting import wait_until

OBJECTIVE = """
    import time
    from pathlib import Path

    def objective(trial):
        state = trial.checkpoint.load() or {"epoch": 0}
        for epoch in range(state["epoch"] + 1, 4):
            trial.checkpoint.save({"epoch": epoch}, epoch)
            with open("log.txt", "a") as log:
                log.write(f"{trial.number} {trial.seed} {epoch}\\n")
            seeds = {line.split()[1] for line in Path("log.txt").read_text().splitlines()}
            if len(seeds) == 4 and epoch == 2:  # the second training of the confirmation
                Path("holds").touch()
                while not Path("go").exists():
                    time.sleep(0.02)
                    trial.check()
            trial.report(trial.params["x"] ** 2, epoch)
            trial.should_prune()
        return trial.params["x"] ** 2 + trial.seed % 1000 / 1000

    def evaluate(trial, checkpoint):
        with open("tested.txt", "a") as tested:
            tested.write(f"{trial.number} {checkpoint['epoch']}\\n")
        return {"metrics": {"loss": 0.5}}
"""


def test_a_confirmation_that_is_killed_is_finished_by_others_and_the_test_set_seen_once(
    place: Workplace,
) -> None:
    spec = place.study("s", OBJECTIVE, budget={"trials": 2}, confirm={"top": 2, "seeds": 2})
    with place.start("run", spec.name, "--runners", "1", "--no-report") as run:
        wait_until((place.path / "holds").exists, what="a repeat runs")
        run.signal(signal.SIGKILL)
        run.wait()
    refused = place.look("evaluate", "s").check(2)
    assert "confirms its winner before the test set is seen" in refused.err
    (place.path / "go").touch()
    joined = place.hpo("worker", "s", "--runners", "1").check(0)
    assert "again, attempt 2, from step 2" in joined.err
    ended = place.run(spec).check(0)
    assert "Trained again with 2 fresh seeds" in ended.out
    place.look("evaluate", "s").check(0)

    lines = (place.path / "log.txt").read_text().splitlines()
    assert set(Counter(lines).values()) == {1}  # every epoch once: it went on from its checkpoint
    assert len(lines) == 3 * (2 + 4)
    found = json.loads(place.look("show", "s", "--format", "json").check(0).out)
    assert found["trials"]["complete"] == 2
    assert found["confirmation"]["done"]
    assert found["confirmation"]["trainings"] == 4
    assert (place.path / "tested.txt").read_text() == f"{found['chosen']} 3\n"
    assert found["test"] == {"loss": 0.5}
