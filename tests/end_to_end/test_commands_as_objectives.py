"""A command as objective, by the real commands: what its trials become, who may run it, how it goes on."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.test_stopping import wait_for_file
from tests.end_to_end.workplace import Workplace
from tests.support.command import HpoResult
from tests.support.waiting import wait_until

DEEDS = """
    #!/bin/sh
    echo "about to $1 with ${HPO_STORAGE:-no database} and ${PGPASSWORD:-no password}"
    case $1 in
    well) echo '{"step": 1, "value": 0.4, "loss": 2}'; echo '{"result": 0.5}' ;;
    kept) echo model > model.pt; echo '{"artifact": "model.pt"}'; echo '{"value": 0.25}' ;;
    nan) echo '{"step": 1, "value": NaN}' ;;
    fail) echo 'no such layer' >&2; exit 3 ;;
    text) echo '{"step": 1, "value": "high"}' ;;
    kill) kill -KILL $$ ;;
    hang) sleep 600 & echo $! > hung; wait ;;
    esac
"""
REASONS = {
    "text": 'the program\'s line 2, {"step": 1, "value": "high"}, has the value "high", which is no number',
    "fail": "the program exited with status 3: no such layer",
    "silent": "reported no result: it printed 1 other lines",
    "hang": "no report for longer than report_timeout (5 s)",
    "kill": "killed by SIGKILL",
    "nan": "the objective returned nan: this setting diverged",
}
CHOICES = ["well", *REASONS, "kept"]


def of_command(place: Workplace, name: str, script: str, command: list[Any], **fields: Any) -> Path:
    """NAME.sh, executable, and the study whose objective it is."""
    place.write(f"{name}.sh", script).chmod(0o755)
    return place.spec(name, objective=None, command=[f"./{name}.sh", *command], **fields)


@pytest.fixture(scope="module")
def ran(shared_place: Workplace) -> HpoResult:
    """A grid over everything a program can do, on two runners."""
    spec = of_command(
        shared_place,
        "deeds",
        DEEDS,
        ["{how}"],
        direction="maximize",
        sampler={"name": "grid"},
        budget=None,
        retry={"lost": 1},
        report_timeout=5,
        space={"how": {"type": "categorical", "choices": CHOICES}},
    )
    secrets = {"PGPASSWORD": "geheim", "HPO_STORAGE": "sqlite:///hpo.db"}
    return shared_place.run(spec, runners=2, env=secrets)


def test_each_trial_becomes_what_its_program_said(ran: HpoResult, shared_place: Workplace) -> None:
    ran.check()
    trials = {trial["params"]["how"]: trial for trial in shared_place.trials("deeds")}
    states = {how: trial["state"] for how, trial in trials.items()}
    assert states == dict.fromkeys(REASONS, "failed") | {
        "well": "complete",
        "kept": "complete",
        "nan": "diverged",
    }
    for how, reason in REASONS.items():
        assert reason in trials[how]["error"], how
        assert "Traceback" not in trials[how]["error"]
    assert trials["well"]["values"] == [0.5]
    assert [(one["step"], one["value"]) for one in trials["well"]["reports"]] == [(1, 0.4)]
    assert trials["kill"]["attempts"] == 2, "a program that somebody killed is tried again, as a runner is"
    (worker,) = shared_place.look("workers", "deeds", "--format", "json").check().json
    assert worker["state"] == "left"


def test_it_gets_no_secret_its_log_is_kept_and_nothing_of_it_is_left(
    ran: HpoResult, shared_place: Workplace
) -> None:
    log = shared_place.look("logs", "deeds/0").check().out
    assert log == "about to well with no database and no password\n"
    files = shared_place.look("trial", f"deeds/{len(CHOICES) - 1}").check().out
    assert "model.pt" in files
    hung = int((shared_place.path / "hung").read_text())
    wait_until(lambda: not psutil.pid_exists(hung), what="what it left is gone")
    shown = shared_place.show("deeds")
    assert shown["objective"] == "./deeds.sh '{how}'"


def test_another_machines_worker_runs_a_command_only_when_it_is_told_to(place: Workplace) -> None:
    """The file is the creator's consent, and a row in a shared database is nobody's."""
    spec = of_command(
        place, "s", "#!/bin/sh\ntouch ran\necho '{\"result\": 1}'", ["{x}"], budget={"trials": 2}
    )
    created = place.look("create", spec.name).check()
    assert created.out.endswith("--allow-commands\n")
    assert "can be run" in place.look("doctor", spec.name).out
    refused = place.hpo("worker", "s", "--runners", "1").check(2)
    assert "the objective of s is a command: ./s.sh '{x}'" in refused.err
    assert "--allow-commands" in refused.err
    passed_by = place.hpo("worker", "--runners", "1", "--idle-timeout", "0.5s").check()
    assert "leaves s to others" in passed_by.err
    assert not (place.path / "ran").exists()
    place.hpo("worker", "s", "--runners", "1", "--allow-commands").check()
    assert place.show("s")["trials"]["complete"] == 2


STEPWISE = """
    #!/bin/sh
    step=$(cat "$2" 2>/dev/null || echo 0)
    echo "begins at $step"
    while [ $step -lt 12 ]; do
        step=$((step + 1))
        [ $step -lt 3 ] || until [ -e "$1/go" ]; do sleep 0.02; done
        [ -e "$1/quickly" ] || sleep 0.1
        echo $step > "$HPO_CHECKPOINT/$step"
        echo "{\\"step\\": $step, \\"value\\": $step, \\"checkpoint\\": \\"$step\\"}"
        [ -e "$HPO_CHECKPOINT/2" ] || touch "$1/second"
    done
"""


def test_a_drained_program_goes_on_from_its_files(place: Workplace) -> None:
    """What it has named as a checkpoint is there again after a take-over."""
    spec = of_command(place, "s", STEPWISE, [str(place.path), ["{resume}"]], budget={"trials": 1})
    with place.start("run", spec.name, "--runners", "1", "--no-report") as run:
        wait_for_file(place.path / "second")
        run.signal_group(signal.SIGINT)
        run.wait_for("draining")
        (place.path / "go").touch()
        run.wait().check(130)
    wait_until(lambda: not _ours(place.path), what="the program has ended")
    (place.path / "quickly").touch()
    finished = place.run(spec).check()
    assert "attempt 2, from step" in finished.err
    (trial,) = place.trials("s")
    assert (trial["state"], trial["values"], trial["attempts"]) == ("complete", [12.0], 2)
    assert [report["step"] for report in trial["reports"]] == list(range(1, 13))
    began = place.look("logs", "s/0").check().out.split()[2::3]
    assert began[0] == "0"
    assert began[1:] == [str(int(began[1]))] != ["0"]


def _ours(path: Path) -> list[int]:
    """Processes that were started with this path among their arguments."""
    return [
        process.pid
        for process in psutil.process_iter(["pid", "cmdline"])
        if str(path) in (process.info["cmdline"] or ())
    ]
