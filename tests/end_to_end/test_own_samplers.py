"""A sampler and a pruner of one's own, through the real command."""

from __future__ import annotations

from tests.end_to_end.workplace import Workplace

THEIRS = """
    import os
    from pathlib import Path

    import optuna

    class Ladder(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, space):
            return {}

        def sample_independent(self, study, trial, name, distribution):
            if Path("broken").exists() and trial.number == 2:
                raise ValueError("the surrogate is singular")
            study._storage.set_trial_system_attr(trial._trial_id, "ladder:rung", trial.number)
            return float(sum(one.state.is_finished() for one in study.trials))

    class Third(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            secrets = [name for name in os.environ if name.startswith("PG") or name == "HPO_STORAGE"]
            return bool(secrets) or (trial.number == 3 and trial.last_step == 2)

    def make(seed):
        return Ladder()

    def pruner():
        return Third()
"""
PRUNED = """
    import optuna

    def objective(trial):
        for step in (1, 2, 3):
            trial.report(step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return trial.params["x"]
"""
OWN = {
    "sampler": {"name": "custom", "factory": "own.py:make"},
    "pruner": {"name": "custom", "factory": "own.py:pruner"},
    "budget": {"trials": 5},
}


def test_they_choose_and_prune_and_what_breaks_them_loses_nothing(place: Workplace) -> None:
    """The trial that a broken one was asked about is given back with the traceback; mended, it goes on."""
    place.write("own.py", THEIRS)
    spec = place.study("s", PRUNED, **OWN)
    place.look("check", spec.name).check()
    (place.path / "broken").touch()
    broken = place.run(spec, env={"PGPASSWORD": "geheim"}).check(1)
    assert "the study's own sampler or pruner failed" in broken.err
    assert "ValueError: the surrogate is singular" in broken.err
    assert "own.py" in broken.err, "with the line it happened on"
    kept = place.look("trial", "s/2", "--format", "json").check().json["attempts_list"]
    assert [attempt["state"] for attempt in kept] == ["released"]
    assert "ValueError: the surrogate is singular" in kept[0]["error"]
    (place.path / "broken").unlink()
    place.write("own.py", THEIRS.replace("return {}", "return {} or {}"))
    refused = place.run(spec).check(64).err
    assert "module own of the study's own sampler or pruner is not what it was" in refused
    place.write("own.py", THEIRS)
    place.run(spec, env={"PGPASSWORD": "geheim"}).check()
    trials = place.trials("s")
    assert [trial["params"]["x"] for trial in trials] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [trial["state"] for trial in trials] == ["complete"] * 3 + ["pruned", "complete"]
    assert trials[3]["last_step"] == 2
    place.look("audit", "s").check()
