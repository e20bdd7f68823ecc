"""A trial that runs out of the device's memory beside others is tried again with the device to itself."""

from __future__ import annotations

from tests.end_to_end.workplace import Workplace

HUNGRY = """
    import contextlib
    import os
    import time
    from pathlib import Path

    import psutil
    import torch

    def others():
        '''The other runners of this worker that live.'''
        found = []
        for one in psutil.Process(os.getppid()).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends meanwhile
                if one.pid != os.getpid() and "hpo.runner.process" in one.cmdline():
                    found.append(one.pid)
        return found

    def objective(trial):
        Path(f"seen-{trial.number}").touch()
        while len(list(Path(".").glob("seen-*"))) < 2:  # the first two meet
            time.sleep(0.02)
        if trial.attempt == 1 or others() or trial.number == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return float(trial.number)
"""


def test_trials_out_of_memory_beside_others_are_tried_again_alone(place: Workplace) -> None:
    """Three on one device: two succeed alone, one after the other; the third fails there and has failed."""
    run = place.run(place.study("s", HUNGRY, budget={"trials": 3}), runners=2).check()
    assert "tried again with the device to itself" in run.err
    trials = place.trials("s")
    assert [trial["state"] for trial in trials] == ["complete", "complete", "failed"]
    assert [trial["attempts"] for trial in trials] == [2, 2, 2]
    first, second = place.look("trial", "s/0", "--format", "json").check().json["attempts_list"]
    assert (first["state"], second["state"]) == ("failed", "complete")
    assert "OutOfMemoryError: CUDA out of memory" in first["error"]
    assert place.look("audit", "s", "--format", "json").check().json["holds"]


def test_with_a_device_to_itself_the_first_time_counts(place: Workplace) -> None:
    objective = "import torch\ndef objective(trial):\n    raise torch.cuda.OutOfMemoryError('too big')\n"
    place.run(place.study("s", objective, budget={"trials": 1}), runners=1).check(1)
    (trial,) = place.trials("s")
    assert (trial["state"], trial["attempts"]) == ("failed", 1)
