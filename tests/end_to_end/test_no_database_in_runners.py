"""A runner runs a stranger's code: it holds no connection to the database and knows no secret of it."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.end_to_end.test_stopping import nurseries, runners, wait_for_file
from tests.end_to_end.workplace import Workplace
from tests.support.pg import PASSWORD
from tests.support.waiting import wait_until

READS = """
    import subprocess
    import time
    from pathlib import Path

    def objective(trial):
        trial.set_user_attr("seen", len(trial.study.trials))
        trial.report(trial.params["x"], 1)
        trial.should_prune()
        trial.checkpoint.save({"step": 1}, 1)
        if trial.number < 2:
            return trial.params["x"]
        child = subprocess.Popen(["sleep", "600"], close_fds=False)  # keeps what can be inherited
        trial.set_user_attr("best", trial.study.best_trial.number)
        Path(f"child-{trial.number}").write_text(str(child.pid))
        Path(f"waits-{trial.number}").touch()
        while not Path("go").exists():
            time.sleep(0.02)
        child.kill()
        return trial.params["x"]
"""
SECRETS = {
    "HPO_DASHBOARD_TOKEN": "a-token-of-the-dashboard",
    "PGPASSWORD": PASSWORD,
    "PGUSER": "somebody",
    "PGSSLKEY": "a-key",
}


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return found


def sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    return {name for name in open_files(pid) if name.startswith("socket:")}


def sockets_to(port: int) -> set[str]:
    """The inodes of this machine's sockets that are connected to a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if int(columns[2].rsplit(":", 1)[1], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return found


@pytest.fixture
def secret_place(place: Workplace, storage_url: str) -> Workplace:
    place.env = {**SECRETS, "HPO_STORAGE": storage_url}
    return place


def test_a_runner_has_no_connection_to_the_database_and_no_secret_and_reads_its_study(
    secret_place: Workplace, storage_url: str
) -> None:
    spec = secret_place.study("s", READS, budget={"trials": 4})
    with secret_place.start("run", spec.name, "--runners", "2", "--no-report") as run:
        for number in (2, 3):
            wait_for_file(secret_place.path / f"waits-{number}")
        found = runners(run)
        assert len(found) == 2
        found += nurseries(run)
        assert len(found) == (3 if sys.platform == "linux" else 2)
        children = [int((secret_place.path / f"child-{number}").read_text()) for number in (2, 3)]
        url = make_url(storage_url)
        if url.port is None:
            names = {str(url.database) + end for end in ("", "-wal", "-shm", "-journal")}
            assert names & set(open_files(run.pid)), "this look would find the database"
            for process in (*(runner.pid for runner in found), *children):
                assert not names & set(open_files(process))
        else:
            connected = sockets_to(url.port)
            assert connected & sockets(run.pid), "this look would find a connection"
            for process in (*(runner.pid for runner in found), *children):
                assert not connected & sockets(process)
        for runner in found:
            assert len(sockets(runner.pid)) == 1, "its pipe alone"
            environment = runner.environ()
            assert not [name for name in environment if name.startswith("PG")]
            assert "HPO_STORAGE" not in environment
            text = str(environment) + " ".join(runner.cmdline())
            assert not [value for value in secret_place.env.values() if value in text]
        for child in children:
            assert not sockets(child), "nor does what the objective starts have the pipe"
        (secret_place.path / "go").touch()
        run.wait().check()
    trials = secret_place.trials("s")
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    assert [trial["user_attrs"]["seen"] >= 1 for trial in trials] == [True] * 4
    assert trials[-1]["user_attrs"]["best"] in (0, 1)


def test_a_runner_whose_objective_leaves_a_process_behind_ends_and_frees_its_place(place: Workplace) -> None:
    """What it started must not hold the pipe open: its worker would wait for its last words."""
    code = """
        import os
        import subprocess

        def objective(trial):
            if trial.number == 0 and trial.attempt == 1:
                subprocess.Popen(["sleep", "600"], close_fds=False, start_new_session=True)
                os.kill(os.getpid(), 9)
            return 0.0
    """
    place.run(place.study("s", code, budget={"trials": 2})).check()
    assert [trial["attempts"] for trial in place.trials("s")] == [2, 1]


FORKS = """
    import multiprocessing
    import os

    def speak(trial, step):
        trial.report(99.0, 100 + step)

    def objective(trial):
        fork = multiprocessing.get_context("fork")
        for step in range(1, 4):
            trial.report(float(step), step)
            child = fork.Process(target=speak, args=(trial, step))
            child.start()
            child.join()
            assert child.exitcode == 1
            if os.fork() == 0:
                trial.report(99.0, 200 + step)  # and falls through, out of the objective
            os.wait()
            trial.should_prune()
        return trial.params["x"]
"""


def test_forked_children_that_report_harm_neither_their_trial_nor_another(
    place: Workplace, storage_url: str
) -> None:
    place.env["HPO_STORAGE"] = storage_url
    ended = place.run(place.study("s", FORKS, budget={"trials": 4}), runners=2).check()
    trials = place.trials("s")
    assert [(trial["state"], trial["attempts"]) for trial in trials] == [("complete", 1)] * 4, ended
    for trial in trials:
        assert [(report["step"], report["value"]) for report in trial["reports"]] == [
            (1, 1.0),
            (2, 2.0),
            (3, 3.0),
        ]
    log = place.hpo("logs", "s/0").check().out
    assert "belongs to the process it was given to" in log


def test_a_worker_that_dies_takes_a_runner_along_that_is_stopped(place: Workplace) -> None:
    """It can hear nothing of it; when it goes on it finds the end of its pipe, or is dead already."""
    spec = place.study("s", READS, budget={"trials": 3})
    with place.start("run", spec.name, "--runners", "1", "--no-report") as run:
        wait_for_file(place.path / "waits-2")
        (runner,) = runners(run)
        runner.suspend()
        family = [runner, *runner.children(recursive=True)]
        run._process.kill()
        run.wait()
        psutil.wait_procs([runner], 120)
        assert not runner.is_running()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: not any(p.is_running() for p in family), what="nothing is left")


RUDE = """
    import json
    import os
    import socket
    import struct
    import time

    def pipe():
        (found,) = [int(name) for name in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{name}")
                    and os.readlink(f"/proc/self/fd/{name}").startswith("socket:")]
        return socket.socket(fileno=os.dup(found))

    def say(name, **fields):
        content = json.dumps([name, fields, 0]).encode()  # of its lane 0
        pipe().sendall(struct.pack("!I", len(content)) + content)

    def objective(trial):
        deed = trial.params["deed"]
        if deed == "junk":
            pipe().sendall(b"\\xff" * 100)
        elif deed == "pickle":
            pipe().sendall(struct.pack("!I", 4) + b"\\x80\\x05N.")
        elif deed == "close":
            os.closerange(3, 1000)
            trial.report(1.0, 1)
        elif deed == "another's result":
            for serial in range(-1, 9):
                say("Finish", number=1, serial=serial + 1000, state="complete", values=[999.0])
            return 1.0
        else:
            return 1.0
        time.sleep(60)
"""


def test_an_objective_that_speaks_to_its_worker_itself_ends_its_own_trial_alone(place: Workplace) -> None:
    deeds = ["junk", "well", "pickle", "another's result", "close", "fine"]
    spec = place.study(
        "s",
        RUDE,
        sampler={"name": "grid"},
        budget=None,
        space={"deed": {"type": "categorical", "choices": deeds}},
    )
    place.run(spec, runners=2).check()
    found = {trial["params"]["deed"]: (trial["state"], trial["values"]) for trial in place.trials("s")}
    assert {deed for deed, (state, _) in found.items() if state == "failed"} == {"junk", "pickle", "close"}
    assert [found[deed] for deed in ("well", "fine", "another's result")] == [("complete", [1.0])] * 3
    (worker,) = place.look("workers", "s", "--format", "json").check().json
    assert worker["state"] == "left"


def test_the_looks_of_this_file_can_fail() -> None:
    """Negative control: a connection and an open file are found."""
    with socket.create_server(("127.0.0.1", 0)) as server, Path(__file__).open() as file:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert sockets_to(port) & sockets(os.getpid())
        assert file.name in open_files(os.getpid())
