"""CPU runners share the machine's cores."""

from __future__ import annotations

import json
import os

import pytest

from tests.end_to_end.workplace import Workplace

NOTED = """
    import json
    import os
    import time
    from pathlib import Path

    def objective(trial):
        found = {"cores": sorted(os.sched_getaffinity(0)), "threads": os.environ["OMP_NUM_THREADS"]}
        Path(f"seen-{os.getpid()}.json").write_text(json.dumps(found))
        while len(list(Path(".").glob("seen-*"))) < 2:  # each runner gets a trial
            time.sleep(0.02)
        return 0.0
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux can keep a process to cores")
def test_runners_keep_to_cores_of_their_own_unless_there_are_too_few(place: Workplace) -> None:
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core cannot be shared out")
    place.run(place.study("s", NOTED, budget={"trials": 2}), runners=2).check()
    one, other = (json.loads(file.read_text()) for file in place.path.glob("seen-*"))
    assert set(one["cores"]) | set(other["cores"]) == cores
    assert not set(one["cores"]) & set(other["cores"])
    assert one["threads"] == other["threads"] == "1"
    for file in place.path.glob("seen-*"):
        file.unlink()
    wide = place.study("wide", NOTED, budget={"trials": 2}, threads=len(cores))
    place.run(wide, runners=2).check()
    assert [set(json.loads(file.read_text())["cores"]) for file in place.path.glob("seen-*")] == [cores] * 2
