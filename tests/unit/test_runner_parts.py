"""The parts of a runner: what counts as a result, when a trial must stop, what a checkpoint survives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from hpo.errors import HpoError
from hpo.runner.checkpoint import CheckpointStore, HeldState, Memory
from hpo.runner.interrupt import Interrupted, StopFlag, Urgency
from hpo.runner.values import BadValueError, NotANumberError, checked_values, says_diverged
from hpo.weights import dump_state, read_state
from objectives.errors import DivergedError
from storage.files.artifacts import ArtifactStore
from storage.files.checkpoints import newest


@pytest.mark.parametrize(
    "value", [1, 0.5, numpy.float32(0.5), torch.tensor(0.5), True, numpy.inf, -numpy.inf]
)
def test_anything_float_takes_is_a_result(value):
    assert checked_values(value, 1) == (float(value),)


@pytest.mark.parametrize("value", [None, "0.5", b"1", [], (1.0, 2.0), {}])
def test_what_is_no_number_is_no_result(value):
    with pytest.raises(BadValueError, match="objective returned"):
        checked_values(value, 1)


@pytest.mark.parametrize(
    "value", [float("nan"), numpy.float32("nan"), torch.tensor(float("nan")), [float("nan")]]
)
def test_nan_says_that_the_setting_diverged(value):
    with pytest.raises(NotANumberError, match=r"the objective returned .*nan.*: this setting diverged"):
        checked_values(value, 1)


def test_nan_in_any_direction_is_divergence():
    for value in [(1.0, float("nan")), (float("nan"), float("inf"))]:
        with pytest.raises(NotANumberError):
            checked_values(value, 2)


class ExplodedError(Exception):
    """An objective's own error that says so, without a base class of ours."""

    diverged = True


def test_an_error_says_that_training_diverged_by_an_attribute_or_by_being_a_floating_point_error():
    wrapped = RuntimeError("training failed")
    wrapped.__cause__ = ExplodedError()
    for error in [
        ExplodedError(),
        FloatingPointError("loss is nan"),
        DivergedError(3, float("inf")),
        wrapped,
    ]:
        assert says_diverged(error), error
    beside = ValueError("while handling another")
    beside.__context__ = ExplodedError()
    for error in [ValueError("nan"), OverflowError(), SystemExit(1), beside]:
        assert not says_diverged(error), error


def test_several_directions_need_as_many_values():
    assert checked_values((1, 2), 2) == (1.0, 2.0)
    with pytest.raises(BadValueError, match="must return 2 numbers"):
        checked_values(1.0, 2)


def test_a_drain_stops_at_the_end_of_the_epoch_and_not_before():
    flag = StopFlag()
    flag.raise_to(Urgency.END_OF_EPOCH)
    flag.between_batches()
    flag.before_report()
    flag.after_report()
    with pytest.raises(Interrupted):
        flag.end_of_epoch()


def test_an_objective_that_never_asks_should_prune_drains_at_its_second_report():
    flag = StopFlag()
    flag.raise_to(Urgency.END_OF_EPOCH)
    flag.before_report()
    flag.after_report()
    with pytest.raises(Interrupted):
        flag.before_report()


@pytest.mark.parametrize("urgency", [Urgency.NOW, Urgency.LOST])
def test_what_is_urgent_stops_between_batches(urgency):
    flag = StopFlag()
    flag.raise_to(urgency)
    with pytest.raises(Interrupted):
        flag.between_batches()


def test_a_lost_lease_is_forgotten_at_the_next_trial_and_a_drain_is_not():
    flag = StopFlag()
    flag.raise_to(Urgency.LOST)
    flag.begin_trial()
    assert flag.urgency is Urgency.NONE
    flag.raise_to(Urgency.END_OF_EPOCH)
    flag.begin_trial()
    assert flag.urgency is Urgency.END_OF_EPOCH


def test_interrupted_passes_an_objectives_except_exception():
    assert not issubclass(Interrupted, Exception)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri())


def saved(store: ArtifactStore, *steps: int) -> None:
    """Attempt 1 of trial `s/0` saves a checkpoint after each step."""
    checkpoints = CheckpointStore(store, "s/0", 1, None)
    for step in steps:
        checkpoints.save({"step": step, "weights": torch.full((64,), float(step))}, step)


def test_the_next_attempt_goes_on_from_the_newest_checkpoint(store):
    saved(store, 1, 2, 3)
    second = CheckpointStore(store, "s/0", 2, newest(store, "s/0", before_attempt=2))
    state = second.load()
    assert second.latest == 3
    assert state is not None
    assert torch.equal(state["weights"], torch.full((64,), 3.0))


def test_only_the_two_newest_checkpoints_are_kept(store):
    saved(store, *range(1, 8))
    assert [name[:20] for name in store.names("s/0/1")] == ["checkpoint-000000006", "checkpoint-000000007"]


def test_a_study_says_how_many_checkpoints_a_running_trial_has(store):
    checkpoints = CheckpointStore(store, "s/0", 1, None, last=1)
    for step in (1, 2, 3):
        checkpoints.save({"step": step}, step)
    assert [name[:20] for name in store.names("s/0/1")] == ["checkpoint-000000003"]


def test_that_an_attempt_got_further_than_any_before_it_is_said_once(store):
    said: list[int] = []
    saved(store, 1, 2)
    before = newest(store, "s/0", before_attempt=2)
    second = CheckpointStore(store, "s/0", 2, before, on_advance=lambda: said.append(second.latest or 0))
    for step in (1, 2, 3, 4):
        second.save({"step": step}, step)
    assert said == [3]


@dataclass
class Resting:
    nbytes: int
    left: dict[str, Any]

    def state(self) -> dict[str, Any]:
        return self.left


def test_a_held_state_waits_in_the_process_alone_and_elsewhere_the_saved_one_counts(store, monkeypatch):
    memory = Memory()
    first = CheckpointStore(store, "s/0", 1, None, memory=memory)
    first.save({"step": 1}, 1)
    resting = Resting(80, {"step": 3})
    first.hold(resting, 3)
    elsewhere = newest(store, "s/0", before_attempt=2)
    assert elsewhere is not None
    assert elsewhere.step == 1
    second = CheckpointStore(store, "s/0", 2, None, memory=memory, held=memory.take("s/0", 1))
    assert (second.latest, second.saved, second.load(), second.held) == (3, 1, {"step": 3}, resting)
    assert memory.take("s/0", 1) is None, "what goes on is held no longer"
    second.save({"step": 4}, 4)
    assert (second.latest, second.saved, second.load(), second.held) == (4, 4, {"step": 4}, None)
    nowhere = CheckpointStore(store, "s/1", 1, None)
    nowhere.hold(resting, 2)
    assert nowhere.load() == {"step": 3}, "who may hold nothing saves"
    assert newest(store, "s/1") is not None

    monkeypatch.setattr("hpo.runner.checkpoint.MEMORY", 100)
    for trial in ("s/2", "s/3"):
        memory.put(trial, 1, HeldState(1, None, resting))
    assert memory.take("s/2", 1) is None, "there is room for one of them"
    assert memory.take("s/3", 1) is not None


@pytest.mark.parametrize("damage", ["truncate", "flip", "replace"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(store, damage, caplog):
    saved(store, 1, 2)
    file = Path(store.local_root or "") / "s/0/1" / store.names("s/0/1")[-1]
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        del content[len(content) // 2 :]
    elif damage == "flip":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    file.write_bytes(bytes(content))

    found = newest(store, "s/0", before_attempt=2)

    assert found is not None
    assert found.step == 1
    assert "step 2 is passed over" in caplog.text


def test_code_in_a_saved_state_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    content = dump_state({"weights": Evil()})
    with pytest.raises(HpoError, match="more than tensors and plain values"):
        read_state(content)
    assert not (tmp_path / "ran").exists()


def test_a_later_attempts_checkpoint_is_invisible_to_an_earlier_one(store):
    CheckpointStore(store, "s/0", 3, None).save({"step": 9}, 9)
    saved(store, 1)
    found = newest(store, "s/0", before_attempt=2)
    assert found is not None
    assert (found.attempt, found.step) == (1, 1)


def test_a_full_disk_while_saving_is_said_and_training_goes_on(store, caplog):
    """A directory where no file can be made stands in for the full disk."""
    (Path(store.local_root or "") / "s").write_text("in the way")
    checkpoints = CheckpointStore(store, "s/0", 1, None)
    checkpoints.save({"step": 1}, 1)
    assert checkpoints.latest is None
    assert "was not saved" in caplog.text
