"""Workers that a launcher starts: found, read and stopped from another shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpo.cli import run
from hpo.errors import HpoError, UserError
from hpo.launch import local
from hpo.launch.base import Order, WorkerLife
from hpo.launch.local import LAUNCHER as LOCAL
from hpo.worker.devices import Gpu
from hpo.worker.identity import host_key, process_started
from tests.cluster.ray_cluster import RayCluster, ray_missing
from tests.end_to_end.workplace import SECONDS, Workplace
from tests.support.pg import PASSWORD
from tests.support.waiting import wait_until

SLOW = """
    import time


    def objective(trial):
        print("trial", trial.number)
        for step in range(1, 100_000):
            time.sleep(0.05)
            trial.report(step, step)
            trial.check()
        return trial.params["x"]
"""
Hpo = Callable[..., int]
Look = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A directory whose launches keep their output there."""
    return Workplace(tmp_path, env={"XDG_STATE_HOME": str(tmp_path / "state")})


@pytest.fixture
def hpo_here(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Hpo:
    """A command in this very process, which has what it needs imported already."""
    monkeypatch.chdir(place.path)
    monkeypatch.setenv("HPO_STORAGE", "sqlite:///hpo.db")
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    return lambda *words: run([str(word) for word in words])


@pytest.fixture
def look(place: Workplace, capsys: pytest.CaptureFixture[str]) -> Look:
    """`look("workers")`: what a command lists, asked in this very process, quick enough to wait by."""

    def ask(command: str) -> Any:
        capsys.readouterr()
        url = place.env.get("HPO_STORAGE", f"sqlite:///{place.path / 'hpo.db'}")
        assert run([command, "--storage", url, "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ask


def trials_at_work(look: Look, study: str) -> int:
    """How many trials of a study its workers are at."""
    return sum(name.startswith(f"{study}/") for worker in look("workers") for name in worker["trials"])


def test_a_launch_outlives_its_shell_and_any_other_stops_it(
    place: Workplace, tmp_path: Path, look: Look
) -> None:
    """The workers give their tickets back and leave; none is left behind, and the study goes on."""
    place.study("slow", SLOW)
    place.look("create", "slow.yaml").check()
    place.hpo("launch", "slow", "--on", "local", "--workers", "2").check()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = {"cwd": elsewhere, "env": {"HPO_STORAGE": f"sqlite:///{tmp_path / 'hpo.db'}"}}
    wait_until(
        lambda: trials_at_work(look, "slow") == 2, SECONDS, every=0.2, what="both workers are at a trial"
    )
    [launch] = look("launches")
    assert (launch["state"], [w["state"] for w in launch["workers"]]) == ("running", ["running"] * 2)
    pids = [int(worker["detail"].split()[-1]) for worker in launch["workers"]]
    family = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    assert len(family) >= 4, "two workers, each with a runner"

    place.hpo("launch", "stop", "1", **there).check()

    assert psutil.wait_procs(family, 120)[1] == []
    assert [launch["state"] for launch in look("launches")] == ["stopped"]
    assert {worker["state"] for worker in look("workers")} == {"left"}
    attempts = place.look("trial", "slow/0", "--format", "json").check().json["attempts_list"]
    assert [attempt["state"] for attempt in attempts] == ["released"]
    printed = place.hpo("launch", "logs", "1", "-n", "1", **there).check().out
    assert printed.count("told to leave; tickets were given back") == 2
    assert "stopped already" in place.hpo("launch", "stop", "1", **there).check().err


def test_launched_workers_end_with_their_study_and_say_why_they_failed(place: Workplace, look: Look) -> None:
    place.study("short", budget={"trials": 4})
    place.look("create", "short.yaml").check()
    empty = place.path / "empty"
    empty.mkdir()
    place.hpo("launch", "short", "--on", "local", "--code", empty).check()
    place.hpo("launch", "short", "--on", "local", "--workers", "2").check()

    def over() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = look("launches")
        return found if not {"running", "unknown"} & {launch["state"] for launch in found} else None

    failed, ended = wait_until(over, SECONDS, every=0.2, what="both launches are over")
    assert (failed["state"], failed["workers"][0]["detail"]) == ("failed", "exit status 2")
    assert (ended["state"], [w["state"] for w in ended["workers"]]) == ("ended", ["ended"] * 2)
    assert "short.py" in place.hpo("launch", "logs", str(failed["id"])).check().out
    assert "is finished" in place.hpo("launch", "short", "--on", "local").check(2).err


def test_mistakes_are_told_before_anything_starts(
    place: Workplace, hpo_here: Hpo, capsys: pytest.CaptureFixture[str]
) -> None:
    place.study("logs")
    assert hpo_here("create", "logs.yaml") == 0

    def told(code: int, *words: str) -> str:
        capsys.readouterr()
        assert hpo_here(*words) == code
        return capsys.readouterr().err

    on_local = ("launch", "start", "logs", "--on", "local")
    assert "did you mean 'local'" in told(2, "launch", "start", "logs", "--on", "lokal")
    assert "PostgreSQL" in told(2, "launch", "start", "logs", "--on", "ray")
    assert "no study named mine" in told(3, "launch", "mine", "--on", "local")
    assert "no launch 7" in told(3, "launch", "logs", "7")
    assert "no launch 7" in told(3, "launch", "stop", "7")
    assert "did you mean 'logs'" in told(2, *on_local, "--option", "lgs=here")
    assert "NAME=VALUE" in told(2, *on_local, "--option", "logs")
    assert "between 1 and" in told(2, *on_local, "--workers", "0")
    assert "0 GPUs" in told(2, *on_local, "--gpus-per-worker", "0.5")
    assert "whole cards" in told(2, *on_local, "--gpus-per-worker", "1.5")
    assert "no such directory" in told(2, *on_local, "--code", "nowhere")
    assert "--bogus" in told(2, *on_local, "--", "--bogus")
    assert "nobody can read it" in told(2, *on_local, "--", "--storage", "sqlite:///x.db")
    assert "nothing was launched" in told(0, "launches")


def test_a_launcher_that_is_not_installed_says_how_to_get_it(
    place: Workplace, hpo_here: Hpo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.study("mine")
    assert hpo_here("create", "mine.yaml") == 0
    monkeypatch.delitem(sys.modules, "hpo.launch.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert hpo_here("launch", "mine", "--on", "ray") == 2
    assert "pip install 'hpo[ray]'" in capsys.readouterr().err


def handle(pid: int, started: float, directory: Path, **changes: Any) -> dict[str, Any]:
    """What a launch of one worker would have stored."""
    worker = {"pid": pid, "started": started}
    return {
        "host": "far",
        "host_key": host_key(),
        "directory": str(directory),
        "workers": [worker],
        **changes,
    }


def test_a_process_that_took_over_the_pid_is_never_signalled(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        started = process_started(stranger.pid)
        assert started is not None
        reused = handle(stranger.pid, started - 3600, tmp_path)
        LOCAL.stop(reused, grace=0)
        assert stranger.poll() is None
        assert LOCAL.status(reused)[0].state is WorkerLife.FAILED
        LOCAL.stop(handle(stranger.pid, started, tmp_path), grace=0)
        assert stranger.wait(120) in (-signal.SIGTERM, -signal.SIGKILL)


def test_from_another_machine_a_launch_says_where_it_lives(tmp_path: Path) -> None:
    far = handle(1, 0.0, tmp_path / "not-here", host_key="another boot")
    assert (LOCAL.status(far)[0].state, LOCAL.status(far)[0].detail) == (WorkerLife.UNKNOWN, "on far")
    for ask in (lambda: LOCAL.stop(far, 1), lambda: LOCAL.logs(far, None, 5)):
        with pytest.raises(HpoError, match="on far"):
            ask()


@pytest.mark.parametrize(
    ("each", "workers", "expected"),
    [
        (0, 3, ["none", "none", "none"]),
        (0.5, 3, ["a", "b", "a"]),
        (0.4, 4, ["a", "b", "a", "b"]),
        (1, 2, ["a", "b"]),
        (2, 1, ["a,b"]),
    ],
)
def test_cards_are_shared_evenly(
    each: float, workers: int, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_gpus", lambda: [Gpu(0, "a", "", 0), Gpu(1, "b", "", 0)])
    order = Order(study="s", workers=workers, code=tmp_path, gpus_per_worker=each)
    assert local.gpus_of_each(order) == expected
    crowded = Order(study="s", workers=9, code=tmp_path, gpus_per_worker=each)
    if each:
        with pytest.raises(UserError, match="this machine has 2 GPUs"):
            local.gpus_of_each(crowded)


def test_what_notifies_travels_as_the_storage_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_STORAGE", "sqlite:///hpo.db")
    monkeypatch.setenv("HPO_NOTIFY_TEAM", "https://here.invalid/secret")
    assert Order(study="s", workers=1, code=tmp_path).environment()["HPO_NOTIFY_TEAM"].endswith("secret")


def test_the_storage_url_is_in_no_command_and_no_handle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the worker by its environment alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HPO_STORAGE", "postgresql://me:open-sesame@nowhere.invalid/hpo")
    made = LOCAL.submit(Order(study="s", workers=1, code=tmp_path))
    try:
        assert "open-sesame" not in json.dumps(made)
        worker = psutil.Process(made["workers"][0]["pid"])
        assert "open-sesame" not in " ".join(worker.cmdline())
        assert worker.environ()["HPO_STORAGE"] == os.environ["HPO_STORAGE"]
    finally:
        LOCAL.stop(made, grace=0)


@pytest.mark.skipif(ray_missing() is not None, reason=str(ray_missing()))
def test_workers_on_ray_share_a_card_wait_for_room_and_drain(
    place: Workplace, pg_url: str, look: Look
) -> None:
    """On a cluster with one card and a token: an ended study frees its half, which a waiting worker takes."""
    place.study("short", budget={"trials": 3})
    place.study("slow", SLOW)
    with RayCluster() as cluster:
        cluster.start("head", cpus=4, gpus=1)
        place.env.update(cluster.environment, HPO_STORAGE=pg_url)
        place.look("create", "short.yaml").check()
        place.look("create", "slow.yaml").check()
        cluster.wait("head")
        share = ("--gpus-per-worker", "0.5", "--cpus-per-worker", "1")
        place.hpo("launch", "short", "--on", "ray", *share).check()
        place.hpo("launch", "slow", "--on", "ray", "--workers", "2", *share).check()
        wait_until(
            lambda: trials_at_work(look, "slow") == 2, 2 * SECONDS, every=0.2, what="the card is shared"
        )

        listed = place.hpo("launches", "--format", "json").check()
        states = [[worker["state"] for worker in launch["workers"]] for launch in listed.json]
        assert states == [["ended"], ["running"] * 2]
        assert PASSWORD not in listed.out
        assert not [
            process for process in cluster.processes("head") if PASSWORD in " ".join(process.cmdline())
        ]
        assert "3/3 done" in place.hpo("launch", "logs", "1", "-n", "9").check().out
        workers = cluster.workers("head")
        assert len(workers) == 2

        place.hpo("launch", "stop", "2").check()

        assert psutil.wait_procs(workers, 120)[1] == []
        assert {worker["state"] for worker in look("workers")} == {"left"}, "a drained worker signs off"
        assert cluster.workers("head") == []
    told = place.hpo("launch", "slow", "--on", "ray").check(1).err
    assert f"cluster at {cluster.address} cannot be reached" in told
