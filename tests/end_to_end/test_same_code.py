"""Every result of a study comes from the same code, or says that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OBJECTIVE = """
import helper

def objective(trial):
    return helper.scale(trial.suggest_float("x", 0, 1))
"""
STUDY = """
study: same
objective: mine.py
direction: minimize
sampler: random
budget: {trials: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OBJECTIVE)
    (tmp_path / "helper.py").write_text("def scale(x):\n    return 2 * x\n")
    (tmp_path / "same.yaml").write_text(STUDY)
    return tmp_path


def test_a_worker_with_an_edited_module_is_refused_and_the_module_is_named(folder, hpo):
    """The objective's own imports count as the study's code too."""
    hpo("run", "same.yaml", "--runners", "1").check()
    hpo("extend", "same", "--trials", "1").check()
    (folder / "helper.py").write_text("def scale(x):\n    return 3 * x\n")

    refused = hpo("worker", "same", "--runners", "1")

    assert refused.code == 64
    assert "module helper was edited" in refused.err
    assert "--allow-mismatch" in refused.err


def test_a_mismatch_that_is_allowed_is_marked_on_its_trials(folder, hpo):
    hpo("run", "same.yaml", "--runners", "1").check()
    hpo("extend", "same", "--trials", "1").check()
    (folder / "helper.py").write_text("def scale(x):\n    return 3 * x\n")

    hpo("worker", "same", "--runners", "1", "--allow-mismatch").check()

    trials = json.loads(hpo("trials", "same", "--format", "json").check().out)
    marks = [trial["user_attrs"].get("code_mismatch") for trial in trials]
    assert marks[:2] == [None, None]
    assert "helper" in marks[2][0]


def test_a_first_mistake_can_be_mended_before_any_trial_completed(folder, hpo):
    """Code is pinned by the first result, not by the first attempt."""
    (folder / "helper.py").write_text("def scale(x):\n    raise RuntimeError('not yet')\n")
    assert hpo("run", "same.yaml", "--runners", "1").code == 1
    (folder / "helper.py").write_text("def scale(x):\n    return 2 * x\n")
    hpo("retry", "same").check()

    hpo("run", "same.yaml", "--runners", "1").check()


def test_one_failed_trial_is_retried_by_its_number(folder, hpo):
    (folder / "helper.py").write_text("def scale(x):\n    raise ValueError\n")
    hpo("run", "same.yaml", "--runners", "1", "--no-report").check(1)
    (folder / "helper.py").write_text("def scale(x):\n    return 2 * x\n")
    hpo("retry", "same/7").check(3)
    hpo("retry", "same/1").check()
    assert "same/1 cannot be retried" in hpo("retry", "same/1").check(2).err
    hpo("run", "same.yaml", "--runners", "1", "--no-report").check()
    states = [trial["state"] for trial in hpo("trials", "same", "--format", "json").check().json]
    assert states == ["failed", "failed", "complete"]


def test_an_objective_that_is_edited_while_it_is_written_has_three_ways_on(folder, hpo):
    """Another name, a new beginning that keeps the old results, or results side by side."""
    first = hpo("run", "same.yaml", "--runners", "1", "--no-report").check().out
    (folder / "helper.py").write_text("def scale(x):\n    print('edited')\n    return 3 * x\n")
    again = hpo("run", "same.yaml", "--runners", "1", "--no-report", "--restart").check()

    assert "the same that was there is same-1 now" in again.err
    assert hpo("best", "same-1").check().out.split("\n")[1:] == first.split("\n")[1:]
    assert hpo("logs", "same-1/0").check().out == ""
    assert hpo("logs", "same/0").check().out == "edited\n"
    assert hpo("audit", "same-1", "--format", "json").check().json["holds"]
    hpo("extend", "same", "--trials", "+1").check()
    (folder / "helper.py").write_text("def scale(x):\n    return 4 * x\n")
    told = hpo("worker", "same", "--runners", "1").check(64).err
    assert all(way in told for way in ("--set study=NAME", "hpo run --restart", "--allow-mismatch"))


def test_failed_trials_wait_again_by_the_same_command_once_their_cause_is_mended(folder, hpo):
    (folder / "helper.py").write_text("def scale(x):\n    raise ValueError\n")
    hopeless = hpo("run", "same.yaml", "--runners", "1", "--no-report").check(1)
    assert "the same command with --retry queues the failed ones again" in hopeless.err
    (folder / "helper.py").write_text("def scale(x):\n    return 2 * x\n")
    again = hpo("run", "same.yaml", "--runners", "1", "--no-report", "--retry").check()
    assert "2 failed trials wait again in same" in again.err
