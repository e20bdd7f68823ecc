"""What is shown, listed, exported and reported; JSON stands alone on standard output."""

from __future__ import annotations

import csv
import json
import re
from datetime import datetime
from typing import Any

import pandas as pd
import pytest

from tests.end_to_end.workplace import Workplace
from tests.support.waiting import wait_until

ROUNDS = """
    import json
    import tempfile
    from pathlib import Path

    import optuna
    import torch

    def objective(trial):
        x, kind = trial.params["x"], trial.params["kind"]
        if kind == "broken":
            raise RuntimeError("<script>alert(1)</script>")
        for epoch in range(1, 4):
            trial.report(x / epoch, epoch)
            trial.log(epoch, loss=1.0 - x / epoch)
            if kind == "weak" and epoch == 2:
                raise optuna.TrialPruned
        print("hello from", trial.number)
        with tempfile.TemporaryDirectory() as folder:
            torch.save({"weight": torch.full((2, 2), x)}, Path(folder) / "model.pt")
            trial.artifact(Path(folder) / "model.pt")
        return x
"""


@pytest.fixture(scope="module")
def shown(shared_place: Workplace) -> Workplace:
    """Two studies, one with a trial complete, one pruned, one failed."""
    spec = shared_place.study(
        "mixed",
        ROUNDS,
        direction="maximize",
        sampler={"name": "grid"},
        budget=None,
        fixed={"note": "Grüße 🎛"},
        space={
            "x": {"type": "float", "low": 1.0, "high": 2.0, "points": 2},
            "kind": {"type": "categorical", "choices": ["fine", "weak", "broken"]},
        },
    )
    shared_place.run(spec).check()
    shared_place.run(shared_place.study("plain", budget={"trials": 2})).check()
    return shared_place


def test_show_has_what_scripts_rely_on(shown: Workplace) -> None:
    result = shown.hpo("show", "mixed", "--format", "json").check()
    found = result.json
    assert result.err == ""
    assert {
        "name": "mixed",
        "state": "finished",
        "directions": ["maximize"],
        "trials": {
            "complete": 2,
            "pruned": 2,
            "failed": 2,
            "diverged": 0,
            "running": 0,
            "parked": 0,
            "waiting": 0,
        },
        "best": {"number": 3, "value": 2.0, "values": [2.0], "params": {"x": 2.0, "kind": "fine"}},
    }.items() <= found.items()
    assert found["sampler"]["name"] == "grid"
    assert found["pruner"]["name"] == "none"
    assert found["budget"]["trials"] == 6


def test_trials_has_what_scripts_rely_on(shown: Workplace) -> None:
    result = shown.hpo("trials", "mixed", "--format", "json").check()
    assert result.err == ""
    assert [trial["number"] for trial in result.json] == list(range(6))
    for trial in result.json:
        assert {
            "number", "state", "values", "params", "attempts", "worker", "started", "finished", "reports",
        } <= trial.keys()  # fmt: skip
        for time in (trial["started"], trial["finished"]):
            assert time.endswith("Z")
            assert datetime.fromisoformat(time) is not None
        steps = {"fine": [1, 2, 3], "weak": [1, 2], "broken": []}[trial["params"]["kind"]]
        assert (
            trial["state"]
            == {"fine": "complete", "weak": "pruned", "broken": "failed"}[trial["params"]["kind"]]
        )
        assert [report["step"] for report in trial["reports"]] == steps
        assert [point["step"] for point in trial["metrics"].get("loss", [])] == steps


@pytest.mark.parametrize(
    ("command", "form"),
    [
        (["ls"], list),
        (["workers"], list),
        (["best", "mixed"], dict),
        (["trial", "mixed/0"], dict),
        (["audit", "mixed"], dict),
        (["doctor"], list),
    ],
)
def test_every_listing_prints_json_alone(command: list[str], form: type, shown: Workplace) -> None:
    result = shown.hpo(*command, "--format", "json").check()
    assert isinstance(result.json, form)
    assert result.json
    assert result.err == ""


def test_best_params_are_json_only_and_run_again_as_fixed_values(shown: Workplace) -> None:
    result = shown.hpo("best", "mixed", "--params").check()
    assert result.json == {"x": 2.0, "kind": "fine"}
    assert result.err == ""


def test_the_best_checkpoint_is_a_state_dict_torch_reads_without_running_code(shown: Workplace) -> None:
    import torch

    result = shown.hpo("best", "mixed", "--checkpoint", "best.pt").check()
    assert result.out == ""
    assert "weights of trial 3 written to best.pt" in result.err
    state = torch.load(shown.path / "best.pt", weights_only=True)
    assert torch.equal(state["weight"], torch.full((2, 2), 2.0))
    both = shown.hpo("best", "mixed", "--params", "--checkpoint", "again.pt").check()
    assert both.json == {"x": 2.0, "kind": "fine"}


def test_a_winner_without_weights_is_told(shown: Workplace) -> None:
    result = shown.hpo("best", "plain", "--checkpoint", "none.pt").check(1)
    assert "left no weights" in result.err
    assert not (shown.path / "none.pt").exists()


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_holds_every_trial(form: str, shown: Workplace) -> None:
    file = shown.path / f"out.{form}"
    result = shown.hpo("export", "mixed", "-o", file.name).check()
    assert result.out == ""
    assert "6 trials of mixed written to out" in result.err
    rows: list[Any]
    if form == "json":
        rows = [{**row, **{f"params_{k}": v for k, v in row["params"].items()}} for row in read_json(file)]
    elif form == "csv":
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    else:
        rows = pd.read_parquet(file).to_dict("records")
    assert [int(row["number"]) for row in rows] == list(range(6))
    assert [row["params_kind"] for row in rows] == ["fine", "weak", "broken"] * 2
    assert [row["state"] for row in rows] == ["complete", "pruned", "failed"] * 2


def read_json(file: Any) -> Any:
    return json.loads(file.read_text())


def test_an_export_of_an_unknown_form_is_refused(shown: Workplace) -> None:
    result = shown.hpo("export", "mixed", "-o", "out.xlsx").check(2)
    for form in (".csv", ".json", ".parquet"):
        assert form in result.err


def test_a_report_is_one_file_that_needs_no_network_and_escapes_what_trials_say(shown: Workplace) -> None:
    result = shown.hpo("report", "mixed", "-o", "one.html").check()
    assert result.out.strip() == "one.html"
    page = (shown.path / "one.html").read_text()
    assert "mixed" in page
    assert "<script>alert(1)</script>" not in page
    assert not re.search(r"""<(script|img|iframe)[^>]*\ssrc=["']?https?:""", page)
    assert not re.search(r"""<link[^>]*\shref=["']?https?:""", page)


def test_a_report_of_several_studies_compares_them(shown: Workplace) -> None:
    shown.hpo("report", "mixed", "plain", "-o", "both.md").check()
    text = (shown.path / "both.md").read_text()
    assert "mixed" in text
    assert "plain" in text


def test_a_trial_shows_its_attempts_and_its_log(shown: Workplace) -> None:
    trial = shown.look("trial", "mixed/0", "--format", "json").check().json
    (attempt,) = trial["attempts_list"]
    assert attempt["state"] == "complete"
    assert [item["name"] for item in trial["artifacts"]] == ["model.pt"]
    assert shown.look("logs", "mixed/0").check().out == "hello from 0\n"
    failed = shown.look("trial", "mixed/2").check().out
    assert "RuntimeError: <script>alert(1)</script>" in failed


def test_deleting_asks_first_and_takes_the_files_along(place: Workplace) -> None:
    place.run(place.study("s", budget={"trials": 1})).check()
    assert any((place.path / "hpo-artifacts").rglob("log.txt"))
    refused = place.hpo("delete", "s", stdin="n\n")
    assert refused.code == 1
    assert refused.out == ""
    assert "nothing was deleted" in refused.err
    assert place.show("s")["trials"]["complete"] == 1
    place.hpo("delete", "s", "--yes").check()
    assert place.look("ls", "--format", "json").check().json == []
    assert not any((place.path / "hpo-artifacts").rglob("log.txt"))


def test_the_schema_accepts_our_own_study_files(shown: Workplace) -> None:
    schema = shown.hpo("schema").check().json
    assert schema["type"] == "object"
    assert {"study", "objective", "space", "budget"} <= schema["properties"].keys()


def test_evaluation_of_an_objective_without_one_is_told(shown: Workplace) -> None:
    assert "has no evaluate(trial, checkpoint)" in shown.hpo("evaluate", "mixed").check(1).err


SPEAKS_TWICE = """
    import time
    from pathlib import Path

    def objective(trial):
        print("one", flush=True)
        Path("began").touch()
        while not Path("go").exists():
            time.sleep(0.05)
        print("two")
        return 1.0
"""


def test_a_followed_log_goes_on_until_the_trial_ends(place: Workplace) -> None:
    spec = place.study("s", SPEAKS_TWICE, budget={"trials": 1})
    with place.start("run", spec.name, "--runners", "1", "--no-report") as running:
        wait_until((place.path / "began").exists, what="the trial begins")
        with place.start("logs", "s/0", "-f") as reader:
            wait_until(lambda: "one" in reader.out, what="what the trial has printed so far is read")
            place.write("go", "")
            running.wait().check()
            assert reader.wait().check().out == "one\ntwo\n"
