"""A trial's peak memory is its own, whatever the runner's earlier trials took."""

from __future__ import annotations

import sys

import pytest

from tests.end_to_end.workplace import Workplace

HUNGRY = """
    def objective(trial):
        held = bytearray(trial.params["megabytes"] * 2**20)
        held[::4096] = b"x" * len(held[::4096])
        trial.report(float(len(held)), 1)
        return float(len(held))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux measures a trial's own peak")
def test_each_trial_shows_its_own_peak_memory(place: Workplace) -> None:
    """A big trial between two small ones, in one process."""
    points = [{"megabytes": size} for size in (1, 400, 1)]
    space = {"megabytes": {"type": "int", "low": 1, "high": 400}}
    place.run(place.study("s", HUNGRY, space=space, enqueue=points, budget={"trials": 3})).check()
    peaks = []
    for number in range(3):
        (attempt,) = place.look("trial", f"s/{number}", "--format", "json").check().json["attempts_list"]
        peaks.append(attempt["peak_memory"] / 2**20)
    small, big, again = peaks
    assert big - small == pytest.approx(400, abs=40)
    assert again < small + 40
    assert f"peak memory {big:.0f} MiB" in place.look("trial", "s/1").check().out


@pytest.mark.gpu
def test_on_a_gpu_it_is_what_pytorch_allocated_in_the_trial() -> None:
    import torch

    from hpo.runner import devices

    held = torch.zeros(64 * 2**18, device="cuda:0")  # 64 MiB
    del held
    devices.reset_peak_memory("cuda:0")
    kept = torch.zeros(8 * 2**18, device="cuda:0")
    assert devices.peak_memory("cuda:0") == pytest.approx(8 * 2**20, abs=2**20)
    del kept
