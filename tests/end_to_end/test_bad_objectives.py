"""Whatever an objective does, its trial is recorded with the reason, and the search goes on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hpo.worker.identity import process_started
from tests.end_to_end.workplace import Workplace
from tests.support.command import HpoResult

DEEDS = """
    import ctypes
    import os
    import signal
    import sys

    import optuna

    class Exploded(Exception):
        diverged = True

    def objective(trial):
        how = trial.config["how"]
        print("about to", how, flush=True)
        if how == "text":
            return "0.99"
        if how == "none":
            return None
        if how == "nan":
            return float("nan")
        if how == "nan reports":
            trial.report(0.9, 1)
            trial.report(float("nan"), 2)
            raise optuna.TrialPruned
        if how == "nan, then an error":
            trial.report(float("nan"), 1)
            raise ValueError("input contains NaN")
        if how == "explode":
            raise Exploded("the loss is inf")
        if how == "minus inf":
            return float("-inf")
        if how == "pair":
            return 1.0, 2.0
        if how == "raise":
            raise ValueError("the learning rate is cursed")
        if how == "exit":
            sys.exit(7)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "vanish":
            os._exit(5)
        if how == "bad report":
            trial.report("high", 1)
        return 0.5 if how == "well" else 0.25
"""
REASONS = {
    "text": ["the objective returned '0.99'", "must return a number"],
    "none": ["the objective returned None", "must return a number"],
    "pair": ["the objective returned (1.0, 2.0)", "1 direction"],
    "raise": ["ValueError: the learning rate is cursed"],
    "exit": ["sys.exit(7)"],
    "kill": ["SIGKILL"],
    "segfault": ["SIGSEGV"],
    "vanish": ["exited with status 5"],
    "bad report": ["report needs a number"],
}
DIVERGED = {
    "nan": "the objective returned nan: this setting diverged",
    "nan reports": "the last report is nan: this setting diverged",
    "nan, then an error": "input contains NaN",
    "explode": "Exploded: the loss is inf",
}
CHOICES = ["well", *REASONS, *DIVERGED, "so so", "minus inf"]


@pytest.fixture(scope="module")
def ran(shared_place: Workplace) -> HpoResult:
    """A grid over everything an objective can do wrong, on two runners."""
    spec = shared_place.study(
        "deeds",
        DEEDS,
        direction="maximize",
        sampler={"name": "grid"},
        budget=None,
        retry={"lost": 1},
        space={"how": {"type": "categorical", "choices": CHOICES}},
    )
    return shared_place.run(spec, runners=2)


@pytest.fixture(scope="module")
def by_deed(ran: HpoResult, shared_place: Workplace) -> dict[str, dict[str, Any]]:
    """Trials by what the objective did in them."""
    trials = shared_place.trials("deeds")
    assert len(trials) == len(CHOICES), "every cell is there, once"
    return {trial["params"]["how"]: trial for trial in trials}


@pytest.mark.parametrize("deed", REASONS)
def test_the_trial_fails_with_its_reason_and_no_value(
    deed: str, by_deed: dict[str, dict[str, Any]], ran: HpoResult
) -> None:
    trial = by_deed[deed]
    assert trial["state"] == "failed"
    assert trial["values"] is None
    assert trial["started"] < trial["finished"]
    for part in REASONS[deed]:
        assert part in trial["error"]
        assert part in ran.err, "the person at the terminal is told too"


@pytest.mark.parametrize("deed", DIVERGED)
def test_a_training_that_exploded_diverged_with_its_reason(
    deed: str, by_deed: dict[str, dict[str, Any]], ran: HpoResult
) -> None:
    trial = by_deed[deed]
    assert (trial["state"], trial["values"], trial["attempts"]) == ("diverged", None, 1)
    assert DIVERGED[deed] in trial["error"]
    assert f"trial {trial['number']} diverged" in ran.err


def test_only_what_returned_a_number_is_complete_and_the_best_is_one_of_these(
    ran: HpoResult, by_deed: dict[str, dict[str, Any]], shared_place: Workplace
) -> None:
    ran.check()
    complete = {deed for deed, trial in by_deed.items() if trial["state"] == "complete"}
    assert complete == {"well", "so so", "minus inf"}, "which is to be maximised, and comes last"
    shown = shared_place.show("deeds")
    assert shown["best"] == {
        "number": by_deed["well"]["number"],
        "value": 0.5,
        "values": [0.5],
        "params": {"how": "well"},
    }
    assert shown["trials"] == {
        "complete": 3,
        "pruned": 0,
        "failed": 9,
        "diverged": 4,
        "running": 0,
        "parked": 0,
        "waiting": 0,
    }
    assert shown["state"] == "finished"


def test_an_infinite_result_is_shown(by_deed: dict[str, dict[str, Any]], shared_place: Workplace) -> None:
    """JSON knows no infinity: there it is null, in a state that has a value."""
    trial = by_deed["minus inf"]
    assert trial["values"] == [None]
    shown = shared_place.look("trial", f"deeds/{trial['number']}").check().out
    assert "-inf" in shown


def test_the_worker_outlives_its_runners(by_deed: dict[str, dict[str, Any]], shared_place: Workplace) -> None:
    (worker,) = shared_place.look("workers", "deeds", "--format", "json").check().json
    assert worker["state"] == "left"
    assert {trial["worker"] for trial in by_deed.values()} == {worker["name"]}


def test_a_killed_runner_is_nobodys_fault_and_its_trial_is_tried_again(
    by_deed: dict[str, dict[str, Any]],
) -> None:
    """`retry.lost` counts for it; what the objective brings about itself counts as failed at once."""
    attempts = {deed: trial["attempts"] for deed, trial in by_deed.items()}
    assert attempts.pop("kill") == 2
    assert set(attempts.values()) == {1}


@pytest.mark.parametrize("deed", ["raise", "segfault"])
def test_a_failed_trial_shows_its_traceback_and_what_it_printed(
    deed: str, by_deed: dict[str, dict[str, Any]], shared_place: Workplace
) -> None:
    name = f"deeds/{by_deed[deed]['number']}"
    log = shared_place.look("logs", name).check().out
    assert f"about to {deed}" in log
    assert "deeds.py" in log, "where in the user's file it happened"
    if deed == "raise":
        shown = shared_place.look("trial", name).check().out
        assert 'raise ValueError("the learning rate is cursed")' in shown
        assert "hpo/runner" not in shown, "frames that are not the user's tell them nothing"


def test_the_database_agrees_with_itself_afterwards(ran: HpoResult, shared_place: Workplace) -> None:
    audit = shared_place.look("audit", "deeds", "--format", "json").check().json
    assert audit["holds"]
    ends = (audit["results"], audit["failed"], audit["diverged"], audit["missing"], audit["duplicates"])
    assert ends == (3, 9, 4, 0, 0)


def test_a_study_in_which_nothing_completes_ends_with_exit_1_and_says_where_to_look(
    place: Workplace,
) -> None:
    spec = place.study(
        "hopeless", "def objective(trial):\n    raise OSError('no data')\n", budget={"trials": 2}
    )
    result = place.run(spec).check(1)
    assert "no completed trial" in result.err
    assert "hpo trials hopeless" in result.err
    again = place.run(spec).check(1)
    assert "no completed trial" in again.err
    best = place.look("best", "hopeless", "--params").check(1)
    assert best.out == ""
    assert "no completed trial" in best.err


def test_failures_are_tried_again_as_often_as_the_study_says(place: Workplace) -> None:
    spec = place.study(
        "flaky",
        """
        def objective(trial):
            if trial.attempt < 3:
                raise ConnectionError("the data server hiccups")
            return trial.suggest_float("x", 0, 1)
        """,
        budget={"trials": 2},
        retry={"failed": 2},
        space=None,
    )
    place.run(spec).check()
    assert [(trial["state"], trial["attempts"]) for trial in place.trials("flaky")] == [("complete", 3)] * 2


def test_an_objective_that_swallows_every_exception_and_closes_its_outputs_still_ends(
    place: Workplace,
) -> None:
    spec = place.study(
        "rude",
        """
        import os
        import sys

        def objective(trial):
            print("trial", trial.number)
            sys.stdout.close()
            os.close(2)
            try:
                trial.report(1.0, 0)
                return trial.suggest_float("x", -10, 10) ** 2
            except Exception:
                return 1e9
        """,
        budget={"trials": 3},
    )
    place.run(spec).check()
    assert all(trial["values"][0] < 101 for trial in place.trials("rude"))
    assert place.look("logs", "rude/2").check().out == "trial 2\n"


GREEDY = """
    import os
    import subprocess
    import sys
    import time
    from pathlib import Path

    def objective(trial):
        how = trial.config["how"]
        print("x" * 30_000)
        if how == "memory":
            held = b"x" * 400_000_000
            time.sleep(600)
        if how == "processes":
            for _ in range(9):
                one = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
                with open("started", "a") as noted:
                    noted.write(f"{one.pid} ")
            time.sleep(600)
        if how == "attribute":
            trial.set_user_attr("notes", "x" * 2000)
        if how == "strays":
            stray = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
            Path("stray").write_text(str(stray.pid))
        return float(how == "strays")
"""


def test_what_goes_over_the_limits_fails_with_that_sentence(place: Workplace) -> None:
    """What was started ends with its trial, also where neither group nor environment tell whose it is."""
    over = ["memory", "processes", "attribute"]
    spec = place.study(
        "greedy",
        GREEDY,
        direction="maximize",
        limits={"memory": "350MB", "processes": 8, "log": "10kB", "attribute": "1kB"},
        sampler="grid",
        budget=None,
        space={"how": {"type": "categorical", "choices": [*over, "strays"]}},
    )
    place.run(spec).check()
    found = {trial["params"]["how"]: trial for trial in place.trials("greedy")}
    assert [found[how]["state"] for how in over] == ["failed"] * 3
    assert re.fullmatch(r"used \d{3} MB, limits.memory is 350 MB", found["memory"]["error"])
    assert re.fullmatch(r"used (9|10) processes, limits.processes is 8", found["processes"]["error"])
    assert "attribute 'notes' takes 2 kB, limits.attribute is 1 kB" in found["attribute"]["error"]
    assert found["strays"]["state"] == "complete"
    pids = [int(pid) for name in ("started", "stray") for pid in (place.path / name).read_text().split()]
    assert len(pids) in (9, 10)
    assert {process_started(pid) for pid in pids} == {None}
    log = place.look("logs", f"greedy/{found['strays']['number']}").out
    assert "bytes left out: a log keeps at most 10,000" in log
