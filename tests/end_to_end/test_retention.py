"""Disks do not fill: the best trials keep their weights, and nothing is left over."""

from __future__ import annotations

from tests.end_to_end.workplace import Workplace

TRAINING = """
    import os
    from pathlib import Path

    import torch

    def objective(trial):
        x = trial.suggest_float("x", -10, 10)
        for epoch in range(1, 4):
            trial.checkpoint.save({"x": x}, epoch)
            trial.report(x * x, epoch)
        if trial.number == 1:
            raise ValueError("no model, but checkpoints")
        Path(f"weights-{trial.number}").touch()
        torch.save({"x": x}, f"weights-{trial.number}")
        trial.artifact(f"weights-{trial.number}", "model.pt")
        (note := Path(f"note-{trial.number}")).write_text("the same for all")
        trial.artifact(note, "note.txt")
        return x * x

    def evaluate(trial, checkpoint):
        assert checkpoint == {"x": trial.params["x"]}
        return {"metrics": {"accuracy": 0.25}}
"""


def test_twenty_trials_leave_as_many_models_as_the_study_keeps(place: Workplace) -> None:
    """The winner's among them; every file that is left belongs to a trial."""
    spec = place.study("lean", TRAINING, budget={"trials": 20}, keep="best 3, last 1")
    place.run(spec, runners=2).check()
    assert place.show("lean")["keep"] == {"best": 3, "last": 1, "pruned": 0}
    assert place.show("lean")["test"] == {"accuracy": 0.25}, "the winner was evaluated"

    third = sorted((t for t in place.trials("lean") if t["values"]), key=lambda t: t["values"])[2]
    (study,) = (place.path / "hpo-artifacts").iterdir()
    objects = [path.read_bytes() for path in study.glob("objects/*/*")]
    assert len([content for content in objects if content[:2] == b"PK"]) == 3
    assert objects.count(b"the same for all") == len(objects) - 3 <= 2, "by content: at most one a runner"
    assert not list(study.glob("*/*/checkpoint-*")), "trials that are over need none"
    shown = place.look("trial", f"lean/{third['number']}", "--format", "json").check().json
    assert [file["name"] for file in shown["artifacts"]] == ["model.pt", "note.txt"]


def test_what_a_study_keeps_may_change_and_makes_it_no_other_study(place: Workplace) -> None:
    for fields in ({}, {"keep": {"best": "all"}}):
        place.look("create", place.study("lean", **fields).name).check()
    assert place.show("lean")["keep"] == {"best": None, "last": 2, "pruned": 0}
