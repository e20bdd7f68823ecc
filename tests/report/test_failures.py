"""What failed, why, and what those trials have in common."""

from __future__ import annotations

from hpo.report.records.failures import apart, failures, storm
from hpo.studies.selection import select
from tests.report.histories import study, trial

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate {} GiB (GPU 0)"


def searched(*, storms: bool) -> list:  # type: ignore[type-arg]
    """Wide ones run out of memory; late ones do where it storms."""
    made = []
    for number in range(40):
        wide = number >= 28 if storms else number % 4 == 0
        params = {"width": 512 if wide else 64 + number, "optimizer": "adam" if number % 2 else "sgd"}
        error = OUT_OF_MEMORY.format(number / 7)
        if wide:
            made.append(trial(number, None, "failed", params=params, error=error))
        else:
            made.append(trial(number, 0.5, params=params))
    return [*made, trial(40, None, "failed", params={"width": 70}, error='ValueError: it\'s "odd"')]


def test_failures_are_grouped_by_their_error_and_each_group_has_a_filter() -> None:
    history = study(*searched(storms=False))
    most, other = failures(history)
    assert (most.numbers[:2], len(most.numbers)) == ((36, 32), 10)
    assert most.error == OUT_OF_MEMORY.format(36 / 7)
    assert {found.number for found in select(history, [most.where])} == set(most.numbers)
    assert [found.number for found in select(history, [other.where])] == [40]


def test_what_sets_failed_trials_apart_is_said() -> None:
    assert apart(study(*searched(storms=False))) == (
        "10 of 11 failed ones have width ≥ 512, and 0 of 30 that went well."
    )
    assert apart(study(*(trial(n, n / 9, params={"x": n}) for n in range(9)))) == ""


def test_a_storm_of_failures_is_told_with_its_corner() -> None:
    assert storm(study(*searched(storms=False))) == ""
    told = storm(study(*searched(storms=True)))
    assert told.startswith("13 of the latest 20 trials failed, most with: CUDA out of memory.")
    assert told.endswith("12 of 13 failed ones have width ≥ 512, and 0 of 28 that went well.")
    late = [
        trial(n, None if n > 4 else 0.5, "failed" if n > 4 else "complete", error="no") for n in range(30)
    ]
    assert storm(study(*late)).startswith("All of the latest 20 trials failed")
    assert storm(study(*late[5:10])).startswith("All 5 trials failed")
