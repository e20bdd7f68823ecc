"""`limits`: what an attempt may use."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psutil
import pytest

from hpo.spec import spec_differences
from hpo.spec.sections import Limits
from hpo.text import size
from hpo.worker.usage import too_much
from tests.support.study_files import complaint, study


@pytest.mark.parametrize(
    ("written", "count"),
    [("8GB", 8 * 10**9), ("1.5 kB", 1500), ("512MiB", 2**29), ("64000 B", 64000), (10**6, 10**6)],
)
def test_sizes_are_read_as_people_write_them(written: Any, count: int) -> None:
    assert study(limits={"attribute": written}).limits.attribute == count


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"memory": "much"}, "limits.memory must be a size like 8GB, 500MB or 512MiB, got 'much'"),
        ({"memory": "1kB"}, "limits.memory must be at least 1,000,000, got 1000"),
        ({"memory": "9" * 12 + "TB"}, "limits.memory must be at most 1,125,899,906,842,624"),
        ({"processes": 0}, "limits.processes must be at least 1, got 0"),
        ({"log": None}, "limits.log must be a whole number, got null"),
        ({"memmory": "8GB"}, "did you mean 'memory'?"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(written: Any, told: str) -> None:
    assert told in complaint(limits=written)


def test_they_make_no_study_another_one() -> None:
    tight, wide = study(limits={"memory": "1GB"}), study(limits={"memory": "8GB", "processes": 9})
    assert tight.digest == wide.digest == study().digest
    assert spec_differences(tight, wide) == []
    assert (study().limits.log, study().limits.attribute) == (50_000_000, 1_000_000)


def test_what_processes_share_is_counted_once() -> None:
    """Data loaders are forked from a runner: together they have hardly more than it has."""
    big = "import os, sys, time\nheld = b'x' * 50_000_000\nfor _ in range(3):\n    "
    big += "os.fork() or time.sleep(600)\nprint('ready', flush=True)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", big], stdout=subprocess.PIPE, process_group=0) as started:
        assert started.stdout is not None
        started.stdout.readline()
        family = [(root := psutil.Process(started.pid)), *root.children(recursive=True)]
        try:
            assert len(family) == 4
            assert sum(one.memory_info().rss for one in family) > 200_000_000
            assert too_much(Limits(memory=100_000_000, processes=4), family) is None
            told = too_much(Limits(memory="50MB"), family)
            assert told is not None
            assert told.endswith(" MB, limits.memory is 50 MB")
            assert too_much(Limits(processes=3), family) == "used 4 processes, limits.processes is 3"
        finally:
            os.killpg(started.pid, 9)


def test_bytes_are_shown_in_units_of_a_thousand() -> None:
    assert [size(n) for n in (0, 999, 1000, 8_300_000_000, 8 * 10**9, 10**13)] == [
        "0 B",
        "999 B",
        "1 kB",
        "8.3 GB",
        "8 GB",
        "10 TB",
    ]
