"""SLURM for real, in short; `python -m tests.cluster` has four workers, two nodes and one that dies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import HpoError, UserError
from hpo.launch import slurm_task
from hpo.launch.base import Order
from hpo.launch.slurm import LAUNCHER
from hpo.launch.slurm_task import exit_file
from tests.cluster.seen import resumed
from tests.cluster.slurm_cluster import NoSlurmError, SlurmCluster
from tests.cluster.slurm_run import SlurmLab
from tests.faults.lab import Lab
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    try:
        made = SlurmCluster(["node1"])
        made.__enter__()
    except NoSlurmError as error:
        pytest.skip(str(error))
    yield made
    made.stop()


@pytest.fixture
def slurm(cluster: SlurmCluster, pg_url: str, tmp_path: Path) -> Iterator[SlurmLab]:
    lab = Lab(tmp_path, pg_url, 1)
    yield SlurmLab(lab, cluster)
    lab.close()


def test_a_preempted_task_is_queued_again_and_its_trial_goes_on_from_the_checkpoint(slurm: SlurmLab) -> None:
    """Then `hpo launch stop` ends it for good; the password stays out of every file and record."""
    slurm.create(cells=3, steps=1000, step_seconds=0.05)
    launch = slurm.launch(1, "--option", "gres=gpu:1", "--option", "time=5")
    slurm.lab.wait(lambda: slurm.lab.journal_lines("saved-3"), "a checkpoint")
    assert slurm.states() == ["running"]

    high = slurm.cluster.occupy("node1", 300)
    wait_until(lambda: slurm.tasks() == {slurm.job: ("PENDING", "")}, every=0.1, what="the task waits")
    assert slurm.lab.attempts() == {"released": 1}
    slurm.cluster.command("scancel", high)
    wait_until(lambda: resumed(slurm.lab), every=0.1, what="its trial goes on")
    assert slurm.restarts() == {slurm.job: 1}

    slurm.hpo("launch", "stop", str(launch))
    wait_until(lambda: not slurm.on("node1"), every=0.1, what="the stopped task leaves")
    assert slurm.lab.attempts() == {"released": 2}
    assert slurm.restarts() == {slurm.job: 1}
    assert "preempted; this task is queued again" in slurm.hpo("launch", "logs", str(launch)).out
    assert slurm.secrets_seen() == []


def test_sbatch_says_why_it_refuses(
    cluster: SlurmCluster, order: Callable[..., Order], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        with pytest.raises(HpoError, match="sbatch refused") as refused:
            LAUNCHER.submit(order(options={"partition": "nowhere"}))
        assert "invalid partition specified: nowhere" in str(refused.value)
    assert list((tmp_path / "hpo-launches").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus_per_worker": 0.5}, "SLURM hands out whole GPUs"),
        ({"options": {"partiton": "low"}}, "did you mean 'partition'?"),
        ({"options": {"drain": "1.5"}}, "a whole number from 1 to 65535"),
        ({"options": {"at-limit": "run"}}, "it is leave or requeue"),
    ],
)
def test_what_slurm_cannot_give_is_refused_before_anything_is_written(
    wrong: dict[str, Any], said: str, order: Callable[..., Order], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        LAUNCHER.submit(order(**wrong))
    assert list(tmp_path.iterdir()) == []


def test_workers_that_slurm_has_forgotten_are_known_by_their_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # nor is there a squeue here
    exit_file(str(tmp_path), 0).write_text("0\n")
    exit_file(str(tmp_path), 1).write_text("64\n")
    found = LAUNCHER.status({"job": "12", "folder": str(tmp_path), "workers": 3})
    assert [worker.state for worker in found] == ["ended", "failed", "unknown"]
    assert "exit status 64" in found[1].detail
    assert "say this on a login node" in found[2].detail


STARTED = "JobState=RUNNING StartTime=2026-01-01T12:00:00 "


@pytest.mark.parametrize(
    ("shown", "drain", "why"),
    [
        (STARTED + "PreemptTime=2026-01-01T12:30:00", 0, "preempted"),
        (STARTED + "PreemptTime=2026-01-01T11:00:00", 0, None),  # the run before
        (STARTED + "PreemptTime=None EndTime=Unknown", 90, None),
        (STARTED + "EndTime=2026-01-01T13:00:00", 90, "the time limit is near"),
        (STARTED + "EndTime=2026-01-01T13:00:00", 0, None),  # to be left at
        (STARTED + "EndTime=2999-01-01T13:00:00", 90, None),  # somebody said SIGTERM by hand
        ("JobState=COMPLETING PreemptTime=2999-01-01T12:00:00", 0, None),  # cancelled, or requeued by SLURM
        (None, 90, None),
    ],
)
def test_a_task_is_queued_again_for_a_reason_alone(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, drain: int, why: str | None
) -> None:
    monkeypatch.setattr(slurm_task, "show_job", lambda: shown)
    assert slurm_task.why_again(drain) == why


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Order]:
    """An order of one worker, with what the test changes."""
    monkeypatch.setenv("HPO_STORAGE", "postgresql://db/hpo")
    return partial(Order, study="study", workers=1, code=tmp_path)
