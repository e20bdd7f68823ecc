"""Which files of trials stay, and that none is removed while a row needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from storage.database.engine import Database
from storage.database.records import TicketState
from storage.files import checkpoints, kept_files, retention
from storage.files.artifacts import ArtifactStore, digest
from storage.files.checkpoints import CHECKPOINT
from storage.files.kept_files import MODEL
from tests.support.clock import shift
from tests.support.kept import finished, keep, spec, weights
from tests.support.shared import Opener, lose, make_study


@pytest.fixture
def store(tmp_path: Any) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri())


def test_only_the_best_keep_their_weights_and_no_file_is_left_over(
    database: Database, party: Opener, store: ArtifactStore
) -> None:
    row = make_study(database, 8, **spec("maximize"))
    worker = party(row)
    for value in (3.0, 1.0, 7.0, 7.0, 2.0, 6.0):
        finished(worker, store, value)
        retention.prune(database, store, row, lambda: 3)
    assert weights(database, store, row) == ([2, 3, 5], [b"model 2", b"model 3", b"model 5"])
    kept = database.read(lambda connection: kept_files.paths_of(connection, row.id))
    assert set(store.all_files(checkpoints.study_key(row.uid, row.name))) == kept, "no orphan, none missing"
    assert len(kept) == 4, "six equal evaluations are one file"


def test_with_several_directions_the_front_keeps_its_weights(
    database: Database, party: Opener, store: ArtifactStore
) -> None:
    row = make_study(database, 4, **spec("maximize", "minimize"))
    worker = party(row)
    for values in ((1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (0.0, 0.5)):
        finished(worker, store, *values)
    retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row)[0] == [0, 1, 3]


def test_a_trial_that_runs_is_not_pruned_and_one_without_a_value_is(
    database: Database, party: Opener, store: ArtifactStore
) -> None:
    row = make_study(database, 4, **spec("minimize"))
    first, second = party(row), party(row)
    running, _ = first.begin()
    keep(first, store, MODEL, b"model running")
    finished(second, store, 1.0)
    second.begin()
    keep(second, store, MODEL, b"model pruned")
    second.writer.deliver(TicketState.PRUNED, None)
    retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row) == ([0, 1], [b"model 1", b"model running"])
    lose(database, running.lease)
    retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row)[0] == [0, 1], "it waits for another attempt"


def test_a_file_stays_as_long_as_one_trial_needs_it(
    database: Database, party: Opener, store: ArtifactStore
) -> None:
    row = make_study(database, 3, **spec("maximize"))
    worker = party(row)
    for value in (1.0, 2.0):
        finished(worker, store, value, content=b"model same")
    retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row) == ([1], [b"model same"])
    finished(worker, store, 3.0)
    retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row) == ([2], [b"model 2"])


def test_a_name_kept_again_replaces_its_file(database: Database, party: Opener, store: ArtifactStore) -> None:
    row = make_study(database, 1, **spec("maximize"))
    worker = party(row)
    worker.begin()
    for count, content in enumerate((b"model a", b"model b", b"model b", b"model a"), 1):
        keep(worker, store, MODEL, content, count)
        retention.prune(database, store, row, lambda: None)
        assert weights(database, store, row) == ([0], [content])


def test_what_a_dead_pruner_left_is_removed_by_the_next(
    database: Database, party: Opener, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_study(database, 3, **spec("maximize"))
    worker = party(row)
    for value in (1.0, 2.0):
        finished(worker, store, value)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row)[1] == [b"model 0", b"model 1"]
    retention.prune(database, store, row, lambda: 1)
    assert weights(database, store, row) == ([1], [b"model 1"])


def test_a_complete_trial_without_a_model_keeps_its_newest_checkpoint_in_its_place(
    database: Database, party: Opener, store: ArtifactStore
) -> None:
    row = make_study(database, 3, **spec("maximize"))
    worker = party(row)
    for value in (1.0, 2.0):
        _, trial = worker.begin()
        folder = checkpoints.trial_key(row.uid, row.name, trial.number)
        for step in (1, 2):
            content = f"model {trial.number} after {step}".encode()
            key = f"{folder}/1/{checkpoints.file_name(step, content)}"
            store.put(key, content)
            newest = checkpoints.Saved(step, 1, key, content)
        worker.writer.deliver(TicketState.COMPLETE, (value,), weights=(row.id, newest.as_kept_file()))
        retention.prune(database, store, row, lambda: 1)
        retention.tidy(database, store, row, trial.id, trial.number)
    assert weights(database, store, row) == ([0], [b"model 1 after 2"])
    with database.transaction(write=False) as connection:
        assert kept_files.names_of(connection, trial.id) == {CHECKPOINT}


def test_the_sweep_takes_what_dead_attempts_left_and_spares_what_may_go_on(
    database: Database, party: Opener, store: ArtifactStore
) -> None:
    row = make_study(database, 3, retry_lost=1, **spec("maximize"))
    study = checkpoints.study_key(row.uid, row.name)
    worker = party(row)
    dead, trial = worker.begin()
    folder = checkpoints.trial_key(row.uid, row.name, trial.number)
    state = f"{folder}/1/{checkpoints.file_name(1, b'state')}"
    orphan = checkpoints.object_key(study, digest(b"orphan"), trial.number, 1, 1)
    for key in (state, orphan, f"{folder}/1/log.txt"):
        store.put(key, key.rpartition("/")[2].encode())

    def left() -> set[str]:
        retention.sweep(database, store, row, lambda: 5)
        return set(store.all_files(study))

    assert left() == {state, orphan, f"{folder}/1/log.txt"}, "the attempt runs"
    lose(database, dead.lease)
    assert left() == {state, f"{folder}/1/log.txt"}, "the trial waits for another attempt"
    shift(100)
    again = worker.claim()
    assert again.trial_id == trial.id
    lose(database, again.lease)
    assert left() == {f"{folder}/1/log.txt"}, "its attempts are used up"


def test_a_store_that_is_away_when_a_trial_ends_delays_nobody_and_is_tidied_later(
    database: Database, party: Opener, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = make_study(database, 3, **spec("maximize"))
    worker = party(row)
    for value in (1.0, 2.0):
        finished(worker, store, value)
    patient = store.with_patience(1e6)
    with monkeypatch.context() as patch:
        patch.setattr(retention, "IMPATIENT_SECONDS", 0.0)
        patch.setattr(store._files, "remove", lambda _: (_ for _ in ()).throw(ConnectionResetError("cut")))
        retention.prune(database, patient, row, lambda: 1)
        retention.sweep(database, patient, row, lambda: 1)
    assert weights(database, store, row)[1] == [b"model 0", b"model 1"]
    retention.prune(database, patient, row, lambda: 1)
    assert weights(database, store, row) == ([1], [b"model 1"])


def test_a_linked_folder_is_not_cleared_and_keeps_nothing_else(
    database: Database, party: Opener, store: ArtifactStore, tmp_path: Path
) -> None:
    """Deletion must not follow a link that a trial put in the place of a folder; the rest is still tidied."""
    row = make_study(database, 3, **spec("maximize"))
    worker = party(row)
    for value in (1.0, 2.0, 3.0):
        finished(worker, store, value)
    folder = next(
        (tmp_path / key).parent
        for key in store.all_files(checkpoints.study_key(row.uid, row.name))
        if store.get(key) == b"model 0"
    )
    outside = tmp_path / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    retention.prune(database, store, row, lambda: 1)
    assert [file.read_bytes() for file in outside.iterdir()] == [b"model 0"]
    assert weights(database, store, row)[1] == [b"model 2"]
    retention.sweep(database, store, row, lambda: 1)
    assert [file.read_bytes() for file in outside.iterdir()] == [b"model 0"]
