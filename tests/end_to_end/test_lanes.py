"""Several trials in one runner: what ends one ends no other, and nobody is blamed for what nobody knows."""

from __future__ import annotations

from tests.end_to_end.workplace import Workplace

TOGETHER = (
    """
    import os
    import time

    import optuna

    def note(*words):
        with open("journal.txt", "a") as journal:
            print(*words, file=journal)

    def objective(trial):
        raise AssertionError("trials are trained together, or in a group of one")

    def lane_key(config):
        return config["x"] < 12

    def objective_many(lanes):
        at = {}
        while lanes:
            came = lanes.joined()
            while any(one.attempt == 1 and one.params["x"] < 8 for one in lanes) and len(lanes) < 4:
                time.sleep(0.01)
                came += lanes.joined()
            for trial in came:
                at[trial] = (trial.checkpoint.load() or {"epoch": 0})["epoch"]
                if at[trial]:
                    note("resumed", trial.params["x"], at[trial])
            lanes.check()
            note("epoch", *[trial.params["x"] for trial in lanes])
            for trial in lanes:
                with lanes.only(trial):
                    x, at[trial] = trial.params["x"], at[trial] + 1
                    if x == 10:
                        raise ValueError("the tenth is cursed")
                    trial.report(x + at[trial] / 10, at[trial])
                    trial.checkpoint.save({"epoch": at[trial]}, at[trial])
            gone = [trial.params["x"] for trial in lanes if at[trial] >= 2]
            if 1 in gone:
                raise RuntimeError("who of them was it?")
            if 5 in gone:
                os._exit(3)
            for trial in lanes:
                with lanes.only(trial):
                    x = trial.params["x"]
                    if trial.should_prune():
                        raise optuna.TrialPruned
                    if at[trial] == 3:
                        lanes.done(trial, x if x % 4 else lambda x=x: float(x))
"""
    ""
)


def test_each_trial_has_an_end_of_its_own_and_what_several_share_blames_nobody(place: Workplace) -> None:
    """Sixteen cells in four lanes, of two keys. Of the first four one raises for all, of the next one ends
    the process: each goes on alone from its checkpoint, and those two are caught. Later one fails by itself.
    """
    spec = place.study(
        "many",
        TOGETHER,
        sampler={"name": "grid"},
        budget=None,
        pruner={"name": "threshold", "upper": 14.05},
        space={"x": {"type": "int", "low": 0, "high": 15}},
        lanes=4,
    )
    place.run(spec).check()
    listed = place.look("trials", "many", "--format", "json").check().json
    rows = {row["params"]["x"]: row for row in listed}
    states = {x: row["state"] for x, row in rows.items()}
    ends = {1: "failed", 5: "failed", 10: "failed", 14: "pruned", 15: "pruned"}
    assert states == {x: ends.get(x, "complete") for x in range(16)}
    assert [rows[x]["values"] for x in (0, 2, 12)] == [[0.0], [2.0], [12.0]]
    assert "the tenth is cursed" in rows[10]["error"]
    assert "who of them" in rows[1]["error"]
    assert "status 3" in rows[5]["error"]
    place.look("audit", "many").check()
    journal = [line.split() for line in (place.path / "journal.txt").read_text().splitlines()]
    groups = [[int(x) for x in words] for word, *words in journal if word == "epoch"]
    assert all(len({x < 12 for x in group}) == 1 for group in groups)
    assert max(map(len, groups)) == 4
    assert sorted(int(words[0]) for word, *words in journal if word == "resumed") == list(range(8)), "alone"
