"""The summary, the tables and the winner's evaluation."""

from __future__ import annotations

from dataclasses import replace

from hpo.report import page
from hpo.report.markdown import markdown
from hpo.report.records import summary, training
from storage.history.records import Confirmation, Estimate, Setting, why_no_best
from tests.report.histories import evaluation, searched, study, trial, two_directions


def sentences(history: object) -> str:
    return " ".join(summary.summarize(history).sentences)  # type: ignore[arg-type]


def test_an_empty_study_says_that_nothing_has_run() -> None:
    assert sentences(study()) == "Nothing has run yet."
    assert "24 trials waiting" in sentences(study(waiting=24))


def test_a_study_whose_trials_all_failed_says_so_and_why() -> None:
    history = study(*(trial(n, None, "failed", error="ValueError: no data") for n in range(3)))
    assert "Every trial failed (3 of 3)" in sentences(history)
    assert "Most frequent reason of failure (3): ValueError: no data" in sentences(history)
    assert summary.summarize(history).best is None


def test_a_study_whose_trials_all_diverged_says_so_and_what_to_try() -> None:
    history = study(*(trial(n, None, "diverged", error="nan") for n in range(3)))
    assert "Every trial diverged (3 of 3): there is no best trial. Lower the high end" in sentences(history)
    assert "Of 3 trials" in sentences(history)
    assert ", 3 diverged." in sentences(history)
    assert why_no_best(history).startswith("has no completed trial: all 3 diverged. Lower the high end")
    mixed = study(trial(0, None, "diverged"), trial(1, None, "failed"), trial(2, None, "waiting"))
    assert "1 of 2 diverged" in why_no_best(mixed)
    assert why_no_best(study(trial(0, None, "failed"))) == "has no completed trial"


def test_the_summary_names_the_best_trial_and_ties() -> None:
    text = sentences(study(trial(0, 0.5), trial(1, 0.5), trial(2, None, "pruned", reports={1: 0.1})))
    assert "Trial 0 is the best of 3: objective value 0.5, tied with 1 later trial" in text


def test_the_summary_says_what_hpo_chose_and_who_breaks_a_constraint() -> None:
    broken, kept = {"size": 1.0}, {"size": 0.0}
    few = study(
        trial(0, 0.5, constraints=broken), trial(1, 0.4, constraints=kept), spec={"chosen": "tpe: because"}
    )
    assert sentences(few).endswith("Chosen by hpo: tpe: because.")
    assert "1 of 2 complete trials break a constraint (size 1)." in sentences(few)
    assert "break a constraint (" not in sentences(study(trial(1, 0.4, constraints=kept)))
    assert "Chosen by hpo" not in sentences(study(trial(1, 0.4)))


def test_pruning_savings_are_told_against_full_trials() -> None:
    full = dict.fromkeys(range(1, 11), 0.5)
    history = study(trial(0, 0.5, reports=full), trial(1, None, "pruned", reports={1: 0.1, 2: 0.1}))
    assert "trained 12 steps; in full it would have been 20, so pruning saved 40 %" in sentences(history)


def test_the_test_result_is_told_apart_from_validation() -> None:
    assert "On the test set, measured once, the best trial has accuracy" in sentences(searched(20))


def test_one_trial_is_a_study() -> None:
    assert "Trial 0 is the best of 1" in sentences(study(trial(0, 0.5)))


def test_several_directions_have_a_front_instead_of_a_best() -> None:
    facts = summary.summarize(two_directions())
    assert facts.best is None
    assert facts.front > 1
    assert "make up the Pareto front" in facts.sentences[0]


def test_waiting_counts_tickets_nobody_started() -> None:
    facts = summary.summarize(study(trial(0, 0.5), trial(1, None, "waiting"), waiting=8))
    assert facts.counts["waiting"] == 9


def test_table_has_a_row_per_trial_and_a_gap_where_a_parameter_was_not_used() -> None:
    table = summary.trial_table(study(trial(0, 0.5, params={"a": 1}), trial(1, 0.6, params={"b": 2})))
    assert table.parameters == ("a", "b")
    assert [(row.number, row.params) for row in table.rows] == [(0, {"a": 1}), (1, {"b": 2})]
    assert table.best == {1}


def test_table_of_a_large_study_keeps_the_best_rows_and_says_so() -> None:
    history = study(*(trial(n, float(n)) for n in range(1500)))
    table = summary.trial_table(history)
    assert [row.number for row in table.rows] == list(range(500, 1500))
    assert "best 1,000 of 1,500" in table.note


def test_comparison_has_a_row_per_study() -> None:
    rows = summary.comparison((searched(20, name="a"), study(name="empty")))
    assert [row.name for row in rows] == ["a", "empty"]
    assert rows[0].test is not None
    assert rows[0].test.metric == "accuracy"
    assert rows[1].best is None


def test_evaluation_reads_the_whole_format() -> None:
    found = training.parse_evaluation(evaluation())
    assert found is not None
    assert found.split == "validation"
    assert found.confusion is not None
    assert sum(map(sum, found.confusion.counts)) == found.samples == 360
    assert len(found.per_class) == len(found.roc) == len(found.pr) == 10
    assert found.residuals is None


def test_evaluation_of_a_regression_has_residuals() -> None:
    found = training.parse_evaluation(
        {"split": "test", "predicted": [1.0, 2.0], "actual": [1.5, 2.5], "residual_std": 0.1}
    )
    assert found is not None
    assert found.residuals is not None
    assert found.residuals.std == 0.1


def test_what_an_objective_got_wrong_in_its_evaluation_is_left_out() -> None:
    found = training.parse_evaluation(
        {
            "metrics": {"accuracy": "high", "loss": float("nan"), "f1": 0.5},
            "confusion_matrix": [[1, 2], [3]],
            "roc": [{"class": "a", "fpr": [0, 1], "tpr": [0]}, "x", None],
            "per_class": {"class": "a"},
        }
    )
    assert found is not None
    assert (dict(found.metrics), found.confusion, found.roc, found.per_class) == ({"f1": 0.5}, None, (), ())


def test_a_large_confusion_matrix_keeps_the_classes_with_most_errors() -> None:
    size = 100
    matrix = [[10 if row == column else 0 for column in range(size)] for row in range(size)]
    matrix[70][71] = 9
    found = training.parse_evaluation({"confusion_matrix": matrix})
    assert found is not None
    assert found.confusion is not None
    assert len(found.confusion.classes) == 40
    assert {"70", "71"} <= set(found.confusion.classes)
    assert "40 of 100 classes" in found.confusion.note


def confirmed(*, done: bool = True) -> Confirmation:
    """Trial 1 is confirmed, trial 0 reported more; trial 2 was first and dropped."""
    won = Setting(1, 0.9, Estimate(10, 0.8999, 0.88, 0.89, 0.91, 0.7), 0.0001, "best", is_first=False)
    tied = Setting(0, 0.95, Estimate(10, 0.895, 0.8, 0.88, 0.91, 0.3), 0.055, "tied", is_first=False)
    first = Setting(2, 0.5, Estimate(4, 0.48, 0.4, 0.4, 0.56, 0.0), 0.02, "dropped", is_first=True)
    return Confirmation(done, 10, (won, tied, first), 1, (0,), False, 24, 60.0)


def test_the_first_paragraph_alone_says_how_sure_the_result_is() -> None:
    history = study(trial(0, 0.95), trial(1, 0.9), trial(2, 0.5), state="finished")
    said = summary.summarize(history).sentences[0]
    assert "Nobody has confirmed that: it is the best of 3 values and so partly luck" in said
    said = summary.summarize(replace(history, confirmation=confirmed())).sentences[0]
    assert said.split(". ") == [
        "Use the setting of trial 1",
        "Trained again with 10 fresh seeds, the setting of trial 1 comes to objective value 0.8999 on "
        "average; with as many other seeds that would lie between 0.89 and 0.91 nine times in ten",
        "It is the best of the 3 with a probability of 70 %: trial 0 may be as good",
        "The search had taken trial 0 for the best, with 0.95; trained again it comes to 0.895",
        "The first setting, of trial 2, is worse (0.48)",
        "In the search: trial 0 is the best of 3: objective value 0.95, found after 10.0 s of 30.0 s.",
    ]
    only = (replace(confirmed().settings[0], reported=0.96),)
    alone = replace(confirmed(), settings=only, first_would_do=None)
    said = summary.summarize(replace(history, trials=history.trials[1:], confirmation=alone)).sentences[0]
    assert "The search, which had reported 0.96, was 0.0001 too good, as the luckiest of many is." in said
    going = summary.summarize(replace(history, confirmation=confirmed(done=False))).sentences[0]
    assert "trial 1 leads by now, with a mean of 0.8999" in going


def test_a_confirmed_winner_stands_in_the_place_of_the_best_unless_a_better_one_came_later() -> None:
    history = study(trial(0, 0.95), trial(1, 0.9), trial(2, 0.5), state="finished")
    found = replace(history, confirmation=confirmed(), test_evaluation={"metrics": {"accuracy": 0.87}})
    assert found.chosen is found.trials[1]
    shown = page.render([found])
    assert "Trained again with fresh seeds" in shown
    assert "<strong>0.8999</strong>" in shown
    assert "the confirmed winner has accuracy 0.87" in markdown([found])
    late = replace(found, trials=(*found.trials, trial(3, 0.99)))
    assert late.chosen is late.trials[3]
    assert not late.is_confirmed
    said = summary.summarize(late).sentences[0]
    assert said.startswith("Trial 3 is the best of 4")
    assert "Trial 3 came later and is better, but nobody has confirmed it yet. Trained again" in said
