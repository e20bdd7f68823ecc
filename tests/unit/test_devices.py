"""Which runner works on which device; a stand-in `nvidia-smi` plays the machine with two cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import UserError
from hpo.worker.devices import Share, find_gpus, plan, usable_cores

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
        Share("cuda:0", "cuda:0", "GPU-aaaa"),
        Share("cuda:0", "cuda:1", "GPU-bbbb"),
    ]


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
    with pytest.raises(UserError, match="must be at least 1"):
        plan("all", per_gpu, runners)
