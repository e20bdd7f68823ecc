"""Runners that leave in good order are no failure, however many they are."""

from __future__ import annotations


def test_a_study_with_four_runners_ends_with_exit_code_0(tmp_path, hpo):
    (tmp_path / "q.py").write_text("def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n")
    (tmp_path / "q.yaml").write_text(
        "study: q\nobjective: q.py\ndirection: minimize\nsampler: random\nbudget: {trials: 8}\n"
    )
    done = hpo("run", "q.yaml", "--runners", "4", "--no-report", timeout=120)
    assert done.code == 0, done.err
    assert "all trials done" in done.err
