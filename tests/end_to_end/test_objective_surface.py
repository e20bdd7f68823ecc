"""What an objective may do with its trial, and what its own directory may hold."""

from __future__ import annotations

from tests.end_to_end.workplace import Workplace


def test_metrics_belong_to_their_epoch_whether_logged_before_or_after_the_report(place: Workplace) -> None:
    for name, lines in {
        "before": "trial.log(epoch=epoch); trial.report(0.0, epoch)",
        "after": "trial.report(0.0, epoch); trial.log(epoch=epoch)",
    }.items():
        code = f"""
            def objective(trial):
                for epoch in range(1, 4):
                    {lines}
                return trial.params["x"]
        """
        place.run(place.study(name, code, budget={"trials": 1})).check()
        logged = place.trials(name)[0]["metrics"]["epoch"]
        assert logged == [{"step": e, "value": float(e)} for e in (1, 2, 3)], name


def test_an_objectives_own_storage_module_is_the_one_it_imports(place: Workplace) -> None:
    place.write("storage.py", "LIMIT = 5.0\n")
    code = """
        import storage

        def objective(trial):
            return storage.LIMIT
    """
    place.run(place.study("own", code, budget={"trials": 2})).check()
    assert [trial["values"] for trial in place.trials("own")] == [[5.0], [5.0]]


def test_a_trial_that_kept_its_model_keeps_no_checkpoints(place: Workplace) -> None:
    """Sixty trials would otherwise leave a hundred and twenty loop states behind."""
    code = """
        from pathlib import Path

        def objective(trial):
            for epoch in range(1, 4):
                trial.checkpoint.save({"epoch": epoch}, epoch)
            Path("weights").write_bytes(b"w")
            trial.artifact("weights", "model.pt" if trial.number == 0 else "other.pt")
            return 0.0
    """
    place.run(place.study("kept", code, budget={"trials": 2})).check()
    left = {
        number: len(list(place.path.glob(f"hpo-artifacts/kept-*/{number}/*/checkpoint-*")))
        for number in (0, 1)
    }
    assert left == {0: 0, 1: 1}, "model.pt replaces them; without it the newest stays"


def test_a_study_its_objective_refuses_costs_no_trial(place: Workplace) -> None:
    """A misspelt setting of a ready objective is told at once, with the right one."""
    spec = place.spec(
        "typo", objective="objectives.classifier", direction="maximize", space={}, fixed={"epohcs": 3}
    )
    for command in (("check", spec.name), ("run", spec.name, "--runners", "1")):
        refused = place.hpo(*command)
        assert refused.code == 2, refused.err
        assert "epohcs" in refused.err
        assert "epochs" in refused.err
    assert place.look("show", "typo").code == 3, "nothing is left under its name"


def test_an_error_that_asks_for_it_gets_a_fresh_runner(place: Workplace) -> None:
    """As out of GPU memory does; the study goes on in another process."""
    code = """
        import os

        class Broken(RuntimeError):
            needs_restart = True

        def objective(trial):
            trial.set_user_attr("pid", os.getpid())
            if trial.number == 0:
                raise Broken("start me again")
            return 0.0
    """
    place.run(place.study("again", code, budget={"trials": 3}), "--runners", "1").check()
    pids = [trial["user_attrs"]["pid"] for trial in place.trials("again")]
    assert pids[0] != pids[1] == pids[2]
