"""Results that wait on disk for the database: what is found there is checked before it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.runner.results import FILE, Finished, find, keep, remove
from storage.database.records import TicketState
from storage.files.artifacts import ArtifactStore

TRIAL = "study-00000000/3"
RESULT = Finished(TicketState.COMPLETE, (0.5,), 1e6, {4: {"loss": float("nan"), "accuracy": 0.9}})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri())


def test_a_kept_result_is_found_by_the_next_attempt(store: ArtifactStore) -> None:
    keep(store, TRIAL, 2, RESULT)
    found = find(store, TRIAL, earlier=range(1, 3), directions=1)
    assert found is not None
    assert (found.state, found.values, found.peak_memory) == (TicketState.COMPLETE, (0.5,), 1e6)
    assert found.metrics[4]["accuracy"] == 0.9


def test_an_attempt_never_finds_a_later_ones_result(store: ArtifactStore) -> None:
    keep(store, TRIAL, 2, RESULT)
    assert find(store, TRIAL, earlier=range(1, 2), directions=1) is None


def test_a_trial_pruned_before_any_report_has_no_value(store: ArtifactStore) -> None:
    keep(store, TRIAL, 1, Finished(TicketState.PRUNED, None, None, {}))
    found = find(store, TRIAL, earlier=range(1, 2), directions=1)
    assert found == Finished(TicketState.PRUNED, None, None, {})


def test_that_a_trial_diverged_is_kept_with_what_said_so(store: ArtifactStore) -> None:
    keep(store, TRIAL, 1, Finished(TicketState.DIVERGED, None, 1.0, {}, error="the loss is nan"))
    found = find(store, TRIAL, earlier=range(1, 2), directions=1)
    assert found == Finished(TicketState.DIVERGED, None, 1.0, {}, error="the loss is nan")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"state": "failed", "values": [1.0], "peak_memory": null, "metrics": {}}',
        b'{"state": "complete", "values": null, "peak_memory": null, "metrics": {}}',
        b'{"state": "complete", "values": [1.0, 2.0], "peak_memory": null, "metrics": {}}',
        b'{"state": "complete", "values": [NaN], "peak_memory": null, "metrics": {}}',
        b'{"state": "complete", "values": ["x"], "peak_memory": null, "metrics": {}}',
    ],
)
def test_what_is_no_result_is_passed_over_for_the_one_before(store: ArtifactStore, content: bytes) -> None:
    keep(store, TRIAL, 1, RESULT)
    store.put(f"{TRIAL}/2/{FILE}", content)
    found = find(store, TRIAL, earlier=range(1, 3), directions=1)
    assert found is not None
    assert found.values == (0.5,)


def test_once_delivered_no_kept_result_of_the_trial_stays(store: ArtifactStore) -> None:
    """A later attempt's stays: it is not this one's to remove."""
    for attempt in (1, 2, 3):
        keep(store, TRIAL, attempt, RESULT)
    store.put(f"{TRIAL}/1/log.txt", b"epoch 1")
    remove(store, TRIAL, up_to_attempt=2)
    assert [store.names(f"{TRIAL}/{attempt}") for attempt in (1, 2, 3)] == [["log.txt"], [], [FILE]]
