"""Ctrl-C, SIGTERM and SIGKILL: what runs is given back, nothing is marked failed, and the search goes on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.workplace import Workplace
from tests.support.command import HpoProcess
from tests.support.waiting import wait_until

STEPWISE = """
    import time
    from pathlib import Path

    def objective(trial):
        state = trial.checkpoint.load() or {"epoch": 0}
        for epoch in range(state["epoch"] + 1, 41):
            trial.checkpoint.save({"epoch": epoch}, epoch)
            trial.report(trial.params["x"] ** 2 + 1 / epoch, epoch)
            Path(f"epoch-{epoch}").touch()
            trial.should_prune()
            while epoch > 2 and not Path("quickly").exists():
                time.sleep(0.02)
                trial.should_prune()
        return trial.params["x"] ** 2
"""
STUBBORN = """
    import subprocess, sys, time
    from pathlib import Path

    CODE = (
        "import os; pid = os.spawnve(os.P_NOWAIT, '/bin/sleep', ['sleep', '600'], {});"
        "open(f'strays/{pid}', 'w')"
    )

    def objective(trial):
        if Path("strays").exists():  # that have lost their environment, session and parent
            subprocess.run([sys.executable, "-c", CODE], start_new_session=True)
        Path(f"started-{trial.number}-{trial.attempt}").touch()
        while not Path("go").exists():
            time.sleep(0.02)
        return trial.params["x"] ** 2
"""


def wait_for_file(path: Path) -> None:
    wait_until(path.exists, what=f"{path.name} appears")


def runners(process: HpoProcess) -> list[psutil.Process]:
    return process.children("hpo.runner.process")


def nurseries(process: HpoProcess) -> list[psutil.Process]:
    return process.children("hpo.runner.nursery")


def test_ctrl_c_drains_and_the_same_command_finishes_from_the_checkpoint(place: Workplace) -> None:
    spec = place.study("s", STEPWISE, budget={"trials": 1})
    with place.start("run", spec.name, "--runners", "1", "--no-report") as run:
        wait_for_file(place.path / "epoch-2")
        run.signal_group(signal.SIGINT)  # as a terminal sends it
        drained = run.wait().check(130)
    assert "the same command carries on" in drained.err
    assert "Traceback" not in drained.err
    shown = place.show("s")
    assert shown["trials"] == {
        "complete": 0,
        "pruned": 0,
        "failed": 0,
        "diverged": 0,
        "running": 0,
        "parked": 0,
        "waiting": 1,
    }
    assert shown["state"] == "running"
    (place.path / "quickly").touch()
    finished = place.run(spec).check()
    assert "attempt 2, from step" in finished.err
    (trial,) = place.trials("s")
    assert (trial["state"], trial["attempts"], trial["error"]) == ("complete", 2, None)
    assert [report["step"] for report in trial["reports"]] == list(range(1, 41))
    attempts = place.look("trial", "s/0", "--format", "json").check().json["attempts_list"]
    assert [attempt["state"] for attempt in attempts] == ["released", "complete"]
    assert 2 <= attempts[1]["resumed_from"] < 40


def test_ctrl_c_twice_aborts_at_once_and_marks_nothing_failed(place: Workplace) -> None:
    spec = place.study("s", STUBBORN, budget={"trials": 3})
    with place.start("run", spec.name, "--runners", "2", "--no-report") as run:
        wait_for_file(place.path / "started-0-1")
        wait_for_file(place.path / "started-1-1")
        run.signal_group(signal.SIGINT)
        run.wait_for("draining")
        run.signal_group(signal.SIGINT)
        run.wait().check(130)
        assert run.children() == []
    assert place.show("s")["trials"] == {
        "complete": 0, "pruned": 0, "failed": 0, "diverged": 0, "running": 0, "parked": 0, "waiting": 3,
    }  # fmt: skip
    (place.path / "go").touch()
    place.run(spec).check()
    trials = place.trials("s")
    assert {trial["state"] for trial in trials} == {"complete"}
    assert sorted(trial["attempts"] for trial in trials) == [1, 2, 2]


def test_a_worker_told_to_leave_gives_its_ticket_back_and_exits_0(place: Workplace) -> None:
    """What a machine about to be taken away sends: SIGTERM."""
    spec = place.study("s", STEPWISE, budget={"trials": 2})
    place.look("create", spec.name).check()
    with place.start("worker", "s", "--runners", "1") as worker:
        wait_for_file(place.path / "epoch-2")
        worker.signal(signal.SIGTERM)
        left = worker.wait().check(0)
    assert "given back" in left.err
    assert place.show("s")["trials"]["waiting"] == 2
    assert place.show("s")["trials"]["failed"] == 0
    (state,) = {row["state"] for row in place.look("workers", "--format", "json").check().json}
    assert state == "left"
    (place.path / "quickly").touch()
    place.hpo("worker", "s", "--runners", "1", "--count", "1").check()
    assert place.show("s")["trials"] == {
        "complete": 1, "pruned": 0, "failed": 0, "diverged": 0, "running": 0, "parked": 0, "waiting": 1,
    }  # fmt: skip


def test_a_killed_runners_ticket_is_freed_at_once_and_finished_by_another(place: Workplace) -> None:
    """The worker sees its runner die: nobody waits for a lease, here ten minutes, to expire. What the trial
    had started and left ends with the runner, though nothing tells whose it was.
    """
    (place.path / "strays").mkdir()
    spec = place.study("s", STUBBORN, budget={"trials": 2})
    with place.start("run", spec.name, "--runners", "1", "--no-report", env={"HPO_LEASE": "600"}) as run:
        wait_for_file(place.path / "started-0-1")
        (runner,) = runners(run)
        (stray,) = (psutil.Process(int(told.name)) for told in (place.path / "strays").iterdir())
        runner.kill()
        wait_for_file(place.path / "started-0-2")
        assert sys.platform != "linux" or not stray.is_running()
        (place.path / "go").touch()
        ended = run.wait().check()
    assert "trial 0 lost: its runner was killed by SIGKILL" in ended.err
    trials = place.trials("s")
    assert [(trial["state"], trial["attempts"]) for trial in trials] == [("complete", 2), ("complete", 1)]
    assert len({trial["worker"] for trial in trials}) == 1
    assert place.look("audit", "s", "--format", "json").check().json["holds"]


def test_a_worker_whose_nursery_is_killed_starts_its_runners_by_itself(place: Workplace) -> None:
    """The runners that were forked from it go on, and one that is killed is replaced."""
    spec = place.study("s", STUBBORN, budget={"trials": 3})
    with place.start("run", spec.name, "--runners", "2", "--no-report", env={"HPO_LEASE": "600"}) as run:
        wait_for_file(place.path / "started-0-1")
        wait_for_file(place.path / "started-1-1")
        (nursery,) = nurseries(run)
        (guard,) = run.children("hpo.worker.guard")
        assert nursery.create_time() < guard.create_time(), "it imports while the database is opened"
        nursery.kill()
        first = runners(run)[0]
        first.kill()
        wait_until(lambda: list(place.path.glob("started-*-2")), what="its trial is begun again")
        (place.path / "go").touch()
        ended = run.wait().check()
    assert "lost: its runner was killed by SIGKILL" in ended.err
    trials = place.trials("s")
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    assert sorted(trial["attempts"] for trial in trials) == [1, 1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_worker_takes_its_runners_along_and_the_next_start_frees_its_ticket(
    place: Workplace, count: int
) -> None:
    spec = place.study("s", STUBBORN, budget={"trials": 1})
    words = ("--runners", str(count), "--no-report")
    with place.start("run", spec.name, *words, env={"HPO_LEASE": "600"}) as run:
        wait_for_file(place.path / "started-0-1")
        assert len(nurseries(run)) == (count > 1 and sys.platform == "linux")
        family = runners(run) + nurseries(run)
        run.signal(signal.SIGKILL)
        run.wait()
        _, alive = psutil.wait_procs(family, 120)
        assert alive == []
    (place.path / "go").touch()
    place.run(spec).check()
    (trial,) = place.trials("s")
    assert (trial["state"], trial["attempts"]) == ("complete", 2)


def test_a_listing_cut_short_by_its_reader_is_no_error(place: Workplace) -> None:
    """`hpo trials s | head -1`"""
    import subprocess

    from tests.support.command import COMMAND, hpo_environment

    place.run(place.study("s", budget={"trials": 1})).check()
    reader = subprocess.Popen(
        [*COMMAND, "trials", "s", "--format", "json"],
        cwd=place.path,
        env=hpo_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert reader.stdout is not None
    reader.stdout.close()
    assert reader.wait(120) == 0
    assert reader.stderr is not None
    assert reader.stderr.read() == b""
    reader.stderr.close()


def test_a_stopped_study_waits_for_resume(place: Workplace) -> None:
    spec = place.study("s", budget={"trials": 2})
    place.look("create", spec.name).check()
    place.look("stop", "s").check()
    told = place.run(spec)
    assert "hpo resume s" in told.err
    assert place.show("s")["trials"]["complete"] == 0
    place.look("resume", "s").check()
    place.run(spec).check()
    assert place.show("s")["trials"]["complete"] == 2
