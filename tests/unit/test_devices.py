"""Which runner works on which device; a stand-in `nvidia-smi` plays the machine with two cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import UserError
from hpo.worker.devices import Share, cores_of, find_gpus, plan, usable_cores
from tests.support.command import look

TWO_CARDS = """#!/bin/sh
echo "0, GPU-aaaa, NVIDIA H200, 143771"
echo "1, GPU-bbbb, NVIDIA H200, 143771"
"""


@pytest.fixture
def two_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(TWO_CARDS)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_each_card_gets_one_runner_that_sees_only_that_card(two_cards):
    assert plan("all", 1, None) == [
        Share("cuda:0", "cuda:0", "GPU-aaaa", 1),
        Share("cuda:0", "cuda:1", "GPU-bbbb", 1),
    ]


def test_a_trial_of_several_gpus_has_them_to_itself(two_cards):
    assert plan("all", 1, None, 2) == [Share("cuda:0", "cuda:0+cuda:1", "GPU-aaaa,GPU-bbbb", 2)]
    assert len(plan("none", 1, None, 2)) == max(1, usable_cores() // 2)
    with pytest.raises(
        UserError, match=r"gpus_per_trial is 2, but --gpus 1 names 1 of this machine: cuda:1\."
    ):
        plan("1", 1, None, 2)
    assert "a runner has 1 here" in (plan("1", 1, None)[0].too_few(2) or "")
    assert plan("none", 1, 1)[0].too_few(2) is None


def test_check_says_that_a_trial_takes_more_gpus_than_are_here(two_cards, tmp_path):
    (tmp_path / "objective.py").write_text("def objective(trial):\n    return trial.params['x']\n")
    (tmp_path / "study.yaml").write_text(
        "{study: s, objective: objective.py, direction: minimize, budget: {trials: 1}, gpus_per_trial: 3,"
        " space: {x: {type: float, low: 0, high: 1}}}"
    )
    said = look("check", "study.yaml", cwd=tmp_path).check().err
    assert (
        "not on this machine: gpus_per_trial is 3, but --gpus all names 2 of this machine: cuda:0, cuda:1"
        in said
    )


def test_per_gpu_puts_several_runners_on_each_card_in_turn(two_cards):
    assert [share.shown for share in plan("all", 2, None)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_cards_are_chosen_by_index_or_uuid(two_cards):
    assert [share.visible for share in plan("1", 1, None)] == ["GPU-bbbb"]
    assert [share.visible for share in plan("GPU-aaaa", 1, None)] == ["GPU-aaaa"]


def test_a_card_that_is_not_there_is_refused_with_those_that_are(two_cards):
    with pytest.raises(UserError, match=r"no GPU '7' on this machine \(found: 0, 1\)"):
        plan("0,7", 1, None)


def test_cuda_visible_devices_limits_what_is_found(two_cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.index for gpu in find_gpus()] == [1]


def test_gpus_none_hides_the_cards_from_the_runners(two_cards):
    assert plan("none", 1, 2) == [Share("cpu", "cpu", "")] * 2


def test_without_a_card_there_is_one_runner_for_each_core(no_card):
    assert plan("all", 1, None) == [Share("cpu", "cpu", None)] * usable_cores()


@pytest.mark.parametrize(("per_gpu", "runners"), [(0, None), (1, 0), (1, -2)])
def test_less_than_one_runner_is_refused(no_card, per_gpu, runners):
    with pytest.raises(UserError, match="must be between 1 and 1,024"):
        plan("all", per_gpu, runners)


DIVIDED = """#!/bin/sh
if [ "$1" = -L ]; then
  echo "GPU 0: NVIDIA H200 (UUID: GPU-aaaa)"
  echo "  MIG 3g.71gb     Device  0: (UUID: MIG-1111)"
  echo "  MIG 3g.71gb     Device  1: (UUID: MIG-2222)"
  echo "GPU 1: NVIDIA H200 (UUID: GPU-bbbb)"
else
  echo "0, GPU-aaaa, NVIDIA H200, 143771"
  echo "1, GPU-bbbb, NVIDIA H200, 143771"
fi
"""


@pytest.fixture
def divided_card(two_cards: None, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text(DIVIDED)


def test_a_divided_card_is_used_by_its_instances(divided_card):
    """Programs cannot use the card itself any more."""
    assert [(share.shown, share.visible) for share in plan("all", 1, None)] == [
        ("cuda:0:0", "MIG-1111"),
        ("cuda:0:1", "MIG-2222"),
        ("cuda:1", "GPU-bbbb"),
    ]


@pytest.mark.parametrize(
    ("asked", "visible"),
    [
        ("0", ["MIG-1111", "MIG-2222"]),
        ("0:1", ["MIG-2222"]),
        ("MIG-1111", ["MIG-1111"]),
        ("MIG-2222,1,0:1", ["MIG-2222", "GPU-bbbb"]),
    ],
)
def test_an_instance_is_chosen_by_card_and_number_or_by_uuid(divided_card, asked, visible):
    assert [share.visible for share in plan(asked, 1, None)] == visible


@pytest.mark.parametrize("name", ["GPU-bbbb", "GPU-bb", "1"])
def test_a_scheduler_names_its_cards_by_index_or_uuid(two_cards, monkeypatch, name):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    assert [share.visible for share in plan("all", 1, None)] == ["GPU-bbbb"]


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_a_scheduler_that_gives_no_card_is_heeded(two_cards, monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert find_gpus() == []


def test_cores_are_divided_among_runners_without_overlap_and_none_is_left_over():
    allowed = {2, 3, 4, 5, 8, 9, 10}
    shares = [cores_of(runner, 3, 2, allowed) for runner in range(3)]
    assert shares == [(2, 3, 4), (5, 8), (9, 10)]


def test_runners_without_enough_cores_for_their_threads_are_not_pinned():
    assert cores_of(0, 4, 2, set(range(7))) is None
    assert cores_of(0, 1, 1, set()) is None
