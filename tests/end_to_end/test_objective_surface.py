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
    assert f"user attributes  pid={pids[1]}" in place.look("trial", "again/1").check().out


LATER = """
        import time
        from pathlib import Path

        first, later = (Path(__file__).with_name(name) for name in ("first", "later"))
        if first.exists():
            later.touch()
            {later}
        else:
            time.sleep(0.3)  # others would be here by now
            first.touch(exist_ok=False)

        def objective(trial):
            until = time.monotonic() + 60
            while not later.exists() and time.monotonic() < until:
                time.sleep(0.05)
            return 0.0
    """


def test_runners_import_one_after_another_the_first_time(place: Workplace) -> None:
    """What an import downloads, or builds, is there for the next."""
    place.run(place.study("follows", LATER.format(later="pass"), budget={"trials": 4}), runners=3).check()
    assert (place.path / "later").exists()
    assert {trial["state"] for trial in place.trials("follows")} == {"complete"}


def test_a_runner_that_cannot_import_what_another_has_ends_no_run(place: Workplace) -> None:
    code = LATER.format(later='raise ConnectionError("one at a time")')
    spec = place.study("misses", code, budget={"trials": 4})
    result = place.run(spec, "--no-evaluate", runners=2).check()
    assert (place.path / "later").exists()
    assert "runner 1 cannot start, others go on" in result.err
    assert "one at a time" in result.err
    assert {trial["state"] for trial in place.trials("misses")} == {"complete"}


def test_a_command_line_that_is_read_at_import_is_the_objectives_own(place: Workplace) -> None:
    code = """
        import argparse, sys
        from pathlib import Path

        parser = argparse.ArgumentParser()
        parser.add_argument("--scale", type=float, default=2.0)
        scale = parser.parse_args().scale
        assert Path(sys.argv[0]) == Path(__file__)

        def objective(trial):
            return scale * parser.parse_args().scale
    """
    spec = place.study("argued", code, budget={"trials": 1})
    place.look("check", spec.name).check()
    place.run(spec).check()
    assert [trial["values"] for trial in place.trials("argued")] == [[4.0]]


def test_what_differs_in_silence_is_noted_and_what_cannot_work_is_refused_at_once(place: Workplace) -> None:
    spec = place.study("noted", 'def objective(trial):\n    return trial.suggest_float("x", 0, 1)\n')
    for said in (place.look("check", spec.name).check().err, place.run(spec).check().err):
        assert "note: space.x goes from -10.0 to 10.0, the objective's own range from 0 to 1" in said
    assert "note:" not in place.run(spec).check().err, "once is enough"
    refused = place.study("refused", "def objective(trial, X, y):\n    return 0\n")
    assert "takes (trial, X, y)" in place.look("check", refused.name).check(2).err
    assert "takes (trial, X, y)" in place.run(refused).check(2).err
    assert place.look("show", "refused").code == 3, "nothing is left under its name"


def test_a_run_that_begins_a_second_database_says_where_both_are(place: Workplace) -> None:
    spec = place.study("twice", budget={"trials": 1})
    place.run(spec).check()
    (place.path / "elsewhere").mkdir()
    words = ("run", f"../{spec.name}", "--runners", "1", "--no-report")
    said = place.hpo(*words, cwd=place.path / "elsewhere").check().err
    assert f"sqlite:///{place.path}/hpo.db has a study twice, too" in said
    assert f"begins another one in sqlite:///{place.path}/elsewhere/hpo.db" in said


def test_a_module_with_its_function_after_a_dot_is_told_the_colon(place: Workplace) -> None:
    place.write("mypkg/train.py", "def objective(trial):\n    return 0.0\n")
    spec = place.spec("dotted", objective="mypkg.train.objective")
    assert "did you mean mypkg.train:objective?" in place.look("check", spec.name).check(2).err
