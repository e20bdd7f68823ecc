"""A program as objective: what it is given, how it is heard, and what is told of one that does not fit."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.errors import ObjectiveError
from hpo.fingerprint import differences, fingerprint
from hpo.runner.command import command_objective
from hpo.runner.program import LONGEST_LINE
from hpo.runner.values import ProgramError, ProgramKilledError
from hpo.spec import parse_spec
from hpo.spec.command import check_command, filled
from objectives.standalone import LocalTrial
from tests.support.study_files import complaint, study
from tests.support.waiting import wait_until


def run(script: str, folder: Path, trial: LocalTrial | None = None, directions: int = 1) -> Any:
    """What comes of a shell script as a study's command."""
    trial = trial or LocalTrial({"lr": 0.1})
    escaped = script.replace("{", "{{").replace("}", "}}")
    return command_objective(("sh", "-c", escaped), "s", directions, folder).call(trial)


def sentence(script: str, folder: Path, directions: int = 1) -> str:
    """What is told of a script that fails."""
    with pytest.raises(ProgramError) as caught:
        run(script, folder, directions=directions)
    return str(caught.value)


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that waits for its parent's look does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter when it goes between opening and reading
        return False


# The study file


def test_arguments_are_filled_in_as_text_and_a_list_within_is_left_out_without_its_parameter() -> None:
    command = check_command(["t", "--lr={lr}", "{{{name}}}", 20, True, "{layers}", ["--m", "{m}"]])
    assert command is not None
    values = {"lr": 1e-05, "name": "a b", "layers": [1, None]}
    assert filled(command, values) == ["t", "--lr=1e-05", "{a b}", "20", "true", "[1, null]"]
    assert filled(command, {**values, "m": 0.9})[-2:] == ["--m", "0.9"]


def test_a_spec_with_a_command_is_read_back_from_what_is_stored() -> None:
    spec = study(objective=None, command=["python", "train.py", "--x", "{x}", ["{x}"]])
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert spec.objective_path is None
    assert spec.shown_objective == "python train.py --x '{x}' ['{x}']"
    assert spec.digest != study(objective=None, command=["python", "train.py"]).digest


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("python train.py", "command is never given to a shell: write a list of arguments"),
        ([], "command has 0 arguments"),
        (["t", {"x": None}], "command.1 is a mapping, {x: null}; a placeholder stands in quotes"),
        (["t", None], "command.1 must be text or a number, got null"),
        (["t", ["-x", ["y"]]], "command.1.1 must be text or a number"),
        (["t", "{X}"], "command.1 has the placeholder {X}, which nothing"),
        (["t", "{trail}"], "did you mean 'trial'?"),
        (["t", '{"a": 1}'], "a brace that is meant as one is written twice"),
        (["t", "{x"], "command.1 has a single brace"),
        (["t", "a\0b"], "holds a NUL byte"),
        (["t", "{resume}"], "command.1 needs resume, which not every trial has"),
        (["t", "{m}"], "command.1 needs m, which not every trial has; put what belongs to it into a list"),
        ([["t"]], "command.0 must begin with a program"),
    ],
)
def test_what_cannot_be_a_command_is_told_before_the_first_trial(command: Any, why: str) -> None:
    space = {
        "x": {"type": "float", "low": 0, "high": 1},
        "o": {"type": "categorical", "choices": ["a", "b"]},
        "m": {"type": "float", "low": 0, "high": 1, "when": {"o": ["a"]}},
    }
    assert why in complaint(objective=None, command=command, space=space)


def test_a_study_has_an_objective_or_a_command_and_a_command_needs_a_space() -> None:
    assert "command cannot stand beside `objective`" in complaint(command=["t"])
    assert "space is required" in complaint(objective=None, command=["t"], space={})
    assert "a `command` must stand in its place" in complaint(objective=None)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("there-is-none", "there is no program there-is-none on this machine's PATH"),
        ("beside.sh", "./beside.sh is the file beside the study file"),
        ("./none.sh", "there is no file"),
        (
            "./beside.sh",
            "is not executable: chmod +x it, or put its interpreter before it, as in [bash, ./be",
        ),
    ],
)
def test_a_program_that_cannot_run_is_told_before_the_first_trial(
    program: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "beside.sh").write_text("echo")
    with pytest.raises(ObjectiveError) as caught:
        command_objective((program,), "s", 1, tmp_path)
    assert why in str(caught.value)


def test_the_files_that_a_command_names_are_the_studys_code(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    (tmp_path / "conf.yaml").write_text("a: 1")
    objective = command_objective(
        ("/bin/sh", "train.py", "--conf=conf.yaml", "{x}", "--", "."), "s", 1, tmp_path
    )
    before = fingerprint(objective, tmp_path)
    assert set(before["sources"]) == {"./train.py", "./conf.yaml"}
    (tmp_path / "train.py").write_text("2")
    (edited,) = differences(fingerprint(objective, tmp_path), before)
    assert edited.startswith("file train.py was edited")


# What it is given


def test_it_runs_beside_the_study_file_with_its_setting_and_without_what_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).resolve().parents[2]}:/theirs")
    trial = LocalTrial({"lr": 0.1, "name": "ü"}, seed=7, device="cuda:0", number=3, attempt=2)
    run("env -0 > env; cat > in; echo '{\"result\": 1}'", tmp_path, trial)
    said = dict(one.split("=", 1) for one in (tmp_path / "env").read_text().split("\0") if one)
    assert json.loads(said["HPO_CONFIG"]) == {"lr": 0.1, "name": "ü"}
    given = [said[f"HPO_{name}"] for name in ("STUDY", "TRIAL", "ATTEMPT", "SEED", "DEVICE")]
    assert given == ["s", "3", "2", "7", "cuda:0"]
    assert said["PYTHONPATH"] == "/theirs"
    assert not Path(said["HPO_CHECKPOINT"]).exists(), "its directory went with it"


# What it says


def test_reports_are_passed_on_and_the_rest_goes_to_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trial = LocalTrial({})
    found = run(
        """
        echo started; echo '{"event": "epoch", "n": 1}'
        printf '10%%\\r20%%\\r{"step": 1, "value": 0.5, "loss": 2, "phase": "warm"}\\r\\n'
        echo '{"step": 2, "value": 0.75, "loss": 1.5}'; echo '{"value": broken'
        printf '\\377\\n'; echo oops >&2; printf '{"result": 0.8}'
        """,
        tmp_path,
        trial,
    )
    assert found == 0.8
    assert trial.reports == {1: 0.5, 2: 0.75}
    assert trial.logs == {1: {"loss": 2.0}, 2: {"loss": 1.5}}
    log = capfd.readouterr()
    assert "started\n" in log.out
    assert '{"event": "epoch", "n": 1}' in log.out
    assert '"phase": "warm"' in log.out, "what no chart shows is not lost"
    assert '{"value": broken' in log.out
    assert '"step": 2' not in log.out
    assert "oops" in log.err


def test_the_last_value_is_the_result_where_there_is_no_other(tmp_path: Path) -> None:
    assert run('echo \'{"step": 1, "value": 2}\'; echo \'{"step": 2, "value": 3}\'', tmp_path) == 3.0
    assert run("echo '{\"value\": 5}'", tmp_path) == 5.0
    both = 'echo \'{"step": 1, "accuracy": 0.5}\'; echo \'{"result": [0.5, 12]}\''
    assert run(both, tmp_path, directions=2) == (0.5, 12.0)
    assert run("echo '{\"result\": NaN}'", tmp_path) != run("echo '{\"result\": NaN}'", tmp_path)


def test_a_line_that_is_too_long_is_for_the_log_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f"head -c {2 * LONGEST_LINE + 9} /dev/zero | tr '\\0' x; echo; echo '{{\"result\": 1}}'"
    assert run(script, tmp_path) == 1.0
    assert capfd.readouterr().out.count("x") == 2 * LONGEST_LINE + 9


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("true", 'reported no result: it printed nothing. It must print a line {"result": 0.93}'),
        ("echo a; echo b", "reported no result: it printed 2 other lines"),
        ("echo \"{'value': 1}\"", "its line {'value': 1} looks like a report, but is no JSON"),
        ("printf '{\"value\": \\377}\\n'", "is no JSON in UTF-8"),
        ("head -c 1200000 /dev/zero", "a line of more than 1,000,000 bytes is not read as a report"),
        ('echo \'{"step": 1, "value": "0.9"}\'', 'line 1, {"step": 1, "value": "0.9"}, has the value "0.9"'),
        ("echo '{\"value\": null}'", "which is no number; a training that exploded says NaN"),
        ("echo '{\"value\": true}'", "has the value true, which is no number"),
        ('echo \'{"step": 1.5, "value": 1}\'', "a step is a whole number from 0"),
        ("echo '{\"step\": -1}'", "a step is a whole number from 0"),
        ("echo '{\"result\": [1, 2]}'", "has 2 results; the study has 1 direction"),
        ('echo \'{"checkpoint": "a"}\'', "has a checkpoint without its step"),
        ('echo \'{"artifact": "none.pt"}\'', "names what cannot be kept: No such file or directory"),
        ("echo '{\"result\": 1}'; echo why >&2; exit 3", "exited with status 3: why"),
        ("exit 3", "exited with status 3, and wrote nothing to standard error"),
        ("kill -SEGV $$", "died by SIGSEGV"),
    ],
)
def test_what_goes_wrong_is_a_sentence(script: str, why: str, tmp_path: Path) -> None:
    assert why in sentence(script, tmp_path)


def test_values_of_several_directions_come_together(tmp_path: Path) -> None:
    trial = LocalTrial({"lr": 0.1})
    assert run('echo \'{"step": 1, "value": [1, 2]}\'', tmp_path, trial, 2) == (1.0, 2.0)
    assert trial.reports == {1: (1.0, 2.0)}
    assert "has 1 values; the study has 2" in sentence('echo \'{"step": 1, "value": 1}\'', tmp_path, 2)
    assert "has 1 results; the study has 2 directions" in sentence("echo '{\"result\": 1}'", tmp_path, 2)
    assert '{"result": [0.93, 12.5]}' in sentence("true", tmp_path, 2)


def test_a_text_that_is_no_argument_or_too_long_is_told(tmp_path: Path) -> None:
    objective = command_objective(("sh", "-c", "{text}"), "s", 1, tmp_path)
    for text, why in {"a\0b": "null byte", "x" * 3_000_000: "Argument list too long"}.items():
        with pytest.raises(ProgramError, match=f"cannot be started: .*{why}"):
            objective.call(LocalTrial({"text": text}))


def test_killed_by_somebody_else_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ProgramKilledError, match="killed by SIGKILL"):
        run("kill -KILL $$", tmp_path)


# How it ends


def test_a_pruned_program_ends_with_all_that_it_started(tmp_path: Path) -> None:
    trial = LocalTrial({}, prune=lambda step, value: step == 2)
    with pytest.raises(optuna.TrialPruned):
        run(
            """
            sleep 60 & echo $! > child
            echo '{"step": 1, "value": 1}'; echo '{"step": 2, "value": 1}'; wait
            """,
            tmp_path,
            trial,
        )
    assert trial.reports == {1: 1.0, 2: 1.0}
    wait_until(lambda: not is_alive(int((tmp_path / "child").read_text())), what="its child has ended")


def test_a_program_that_must_stop_is_told_first_and_then_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(BaseException):
        pass

    def stop() -> None:
        if (tmp_path / "ready").exists():
            raise StopError

    for catch, left, seconds in [("echo told > told; exit", "told", 120), ("", "ready", 0.5)]:
        monkeypatch.setattr("hpo.runner.program.ENDS_WITHIN", seconds)
        (tmp_path / "ready").unlink(missing_ok=True)
        began = time.monotonic()
        with pytest.raises(StopError):
            run(
                f"trap '{catch}' TERM; touch ready; while :; do sleep 0.05; done",
                tmp_path,
                LocalTrial({}, on_check=stop),
            )
        assert (tmp_path / left).exists()
        assert catch or time.monotonic() - began > 0.5


def test_what_it_left_in_the_background_ends_with_it_and_is_not_waited_for(tmp_path: Path) -> None:
    assert run("sleep 600 & echo $! > child; echo '{\"result\": 1}'", tmp_path) == 1.0
    wait_until(lambda: not is_alive(int((tmp_path / "child").read_text())), what="its child has ended")
    begun = "while [ ! -s child ]; do sleep 0.01; done"  # in its session: before, it ends with the group
    detached = f"rm child; setsid sh -c 'echo $$ > child; exec sleep 600' & {begun}; echo '{{\"result\": 1}}'"
    assert run(detached, tmp_path) == 1.0, "who holds its output open in another session is not waited for"
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


# Going on


def test_what_a_checkpoint_names_is_there_again_in_the_next_attempt(tmp_path: Path) -> None:
    """Taken at once from where the program put it, and whole: file or folder."""
    trial = LocalTrial({})
    first = """
        cd $HPO_CHECKPOINT; echo 1 > a; mkdir -p b/sub; echo 2 > b/sub/state; : > b/empty; ln -s /etc b/link
        echo '{"step": 3, "checkpoint": "a"}'; echo '{"step": 4, "value": 0.5, "checkpoint": "b"}'
        while [ -e b ]; do sleep 0.01; done; ls; exit 1
    """
    with pytest.raises(ProgramError, match="status 1"):
        run(first, tmp_path, trial)
    assert trial.checkpoint.latest == 4
    run('cp -r "$HPO_RESUME" seen; echo \'{"result": 1}\'', tmp_path, trial)
    seen = tmp_path / "seen"
    assert sorted(str(file.relative_to(seen)) for file in seen.rglob("*")) == ["empty", "sub", "sub/state"]
    assert (seen / "sub" / "state").read_text() == "2\n"
    assert run("true", tmp_path, trial) == 0.5, "nothing was left to do: what was reported last is the result"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a", "a"], "names a checkpoint again: each needs a name of its own"),
        (["none"], "names what cannot be kept: No such file"),
        (["../a"], "outside of HPO_CHECKPOINT"),
        (["."], "outside of HPO_CHECKPOINT"),
    ],
)
def test_a_checkpoint_that_cannot_be_taken_is_told(names: list[str], why: str, tmp_path: Path) -> None:
    lines = "".join(f'echo x > a; echo \'{{"step": 1, "checkpoint": "{name}"}}\';' for name in names)
    assert why in sentence(f"cd $HPO_CHECKPOINT; {lines}", tmp_path)


def test_files_of_a_checkpoint_that_was_tampered_with_stay_in_their_directory(tmp_path: Path) -> None:
    import torch

    trial = LocalTrial({})
    trial.checkpoint.save({"name": "a", "files": {"../escaped": torch.zeros(1, dtype=torch.uint8)}}, 1)
    with pytest.raises(ProgramError, match="outside of"):
        run("echo '{\"result\": 1}'", tmp_path, trial)
