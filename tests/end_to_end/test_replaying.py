"""A trial is trained again from what is stored, and what has changed since is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import hpo.worker.replay as replaying
import objectives.setup
from hpo.errors import UserError
from hpo.fingerprint import versions
from hpo.settings import Settings
from hpo.studies import reading
from hpo.wiring import open_storage
from objectives.datasets import load
from tests.end_to_end.workplace import Workplace

TRIALS, EPOCHS = 3, 6
DATA = """
from pathlib import Path
import numpy as np
from torch.utils.data import TensorDataset
import torch

def table(path: Path):
    held = np.loadtxt(path, dtype=np.float32)
    return TensorDataset(torch.tensor(held[:, 1:]), torch.tensor(held[:, 0]).long())
"""


@pytest.fixture(scope="module")
def trained(shared_place: Workplace) -> Workplace:
    """Three trials of our classifier on a table that lies beside the study file."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 6, generator=draw)
    labels = (inputs[:, :2].sum(1) > 0).long()
    rows = (
        " ".join(f"{v:.4f}" for v in [float(y), *x]) for y, x in zip(labels, inputs.tolist(), strict=True)
    )
    shared_place.write("table.txt", "\n".join(rows))
    shared_place.write("data.py", DATA)
    spec = shared_place.spec(
        "again",
        objective="objectives.classifier",
        direction="maximize",
        sampler={"name": "random", "seed": 3},
        budget={"trials": TRIALS},
        space={"lr": {"type": "float", "low": 0.01, "high": 0.5, "log": True}},
        fixed={
            "dataset": "data.py:table",
            "dataset_args.path": "table.txt",
            "epochs": EPOCHS,
            "hidden": 16,
            "dropout": 0.2,
        },
    )
    shared_place.run(spec).check()
    return shared_place


class Again:
    """Replays of the study's trials, in this process."""

    def __init__(self, place: Workplace) -> None:
        self.folder = place.path
        self.database = open_storage(Settings.from_environment(f"sqlite:///{place.path / 'hpo.db'}"))

    def __call__(self, number: int = 1, threads: int | None = None) -> replaying.Replay:
        load.forget()  # what a fresh process has not read yet
        row = reading.get_study(self.database, "again")
        record = reading.history(self.database, "again", evaluated=False).trials[number]
        return replaying.replay(self.database, row, record, self.folder, threads)


@pytest.fixture
def again(trained: Workplace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Again]:
    monkeypatch.chdir(trained.path)  # else the tests themselves are the study's code
    before = torch.get_num_threads()
    yield Again(trained)
    torch.set_num_threads(before)


def test_every_trial_trains_again_to_the_same_bits(trained: Workplace, again: Again) -> None:
    """Of each epoch its report and every metric, and nothing of it is written."""
    held = (trained.path / "hpo.db").read_bytes()
    found = [again(number) for number in range(TRIALS)]
    assert [one.said for one in found] == [f"bit-exact over {EPOCHS} epochs"] * TRIALS
    assert (trained.path / "hpo.db").read_bytes() == held
    assert trained.look("replay", "again/0").check().out == f"again/0 bit-exact over {EPOCHS} epochs\n"


def test_another_seed_is_named(trained: Workplace, again: Again) -> None:
    set_seed = "UPDATE hpo_study SET seed = seed + ?"
    with sqlite3.connect(trained.path / "hpo.db") as database:
        database.execute(set_seed, (1,))
    found = again()
    with sqlite3.connect(trained.path / "hpo.db") as database:
        database.execute(set_seed, (-1,))
    assert found.step == 1
    assert any(line.startswith("seed ") for line in found.differences), found.said


def test_a_data_file_that_was_edited_is_named(trained: Workplace, again: Again) -> None:
    file = trained.path / "table.txt"
    before = file.read_text()
    file.write_text(before.replace(before.split()[1], "0.5", 1))
    try:
        found = again()
    finally:
        file.write_text(before)
    assert found.step == 1
    assert [line.split(":")[0] for line in found.differences] == ["the data set differs"]


def test_one_weight_that_begins_otherwise_and_another_library_are_named(
    again: Again, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*arguments: object) -> torch.nn.Module:
        model: torch.nn.Module = build_model(*arguments)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3
        return model

    build_model, here = objectives.setup.build_model, versions()
    monkeypatch.setattr(objectives.setup, "build_model", other)
    monkeypatch.setattr(replaying, "versions", lambda: here | {"torch": "9.9"})
    found = again()
    assert found.step == 1
    assert found.differences[0] == f"torch 9.9 here, {here['torch']} then"
    assert [line.split(":")[0] for line in found.differences[1:]] == ["the initial weights differ"]
    assert found.said.startswith("diverges at epoch 1: ")


def test_other_threads_and_edited_code_are_named(trained: Workplace, again: Again) -> None:
    """Also where they change nothing, which they do not have to."""
    file = trained.path / "data.py"
    before = file.read_text()
    file.write_text(before + "# edited\n")
    try:
        found = again(threads=2)
    finally:
        file.write_text(before)
    assert found.differences[-1] == "threads 2 here, 1 then"
    assert found.differences[0].startswith("module data was edited: ")


def test_what_was_a_lane_then_is_compared_within_the_tolerance_that_is_stated(again: Again) -> None:
    """And no further."""
    record = reading.history(again.database, "again", evaluated=False).trials[1]
    lane = replace(record, user_attrs={**record.user_attrs, "training": {"lanes": 3}})
    last = max(record.reports)

    def compared(by: float) -> replaying.Replay:
        then = {(s, ""): value for s, value in lane.reports.items()}
        then |= {(s, name): v for name, series in lane.metrics.items() for s, v in series.items()}
        there = {key: value + by * (key[0] == last) for key, value in then.items()}
        assert lane.values is not None
        return replaying._compared(lane, there, lane.values, (), None)

    assert compared(5e-6).said == f"within 1e-05 over {EPOCHS} epochs"
    assert compared(2e-5).step == last


MINE = """
from pathlib import Path
from kept_helper import scaled

def objective(trial):
    shift = float(Path(__file__).with_name("shift.txt").read_text())
    for step in range(1, 4):
        trial.report(scaled(trial.config["x"]) + shift * step, step)
    return scaled(trial.config["x"])
"""


@pytest.fixture(scope="module")
def kept(shared_place: Workplace) -> Workplace:
    """Two trials of a person's own files, which were edited since."""
    shared_place.write("shift.txt", "0.5")
    helper = shared_place.write("kept_helper.py", "def scaled(x):\n    return 3 * x\n")
    shared_place.run(shared_place.study("kept_mine", MINE, budget={"trials": 2})).check()
    helper.write_text("def scaled(x):\n    return 4 * x\n")
    mine = shared_place.path / "kept_mine.py"
    mine.write_text(mine.read_text() + "# edited\n")
    return shared_place


def test_the_code_of_then_runs_when_a_person_asks_for_it(kept: Workplace, trained: Workplace) -> None:
    """Of an objective with what it imports, and of ours with a file that the study names; data are found."""
    stored = kept.hpo("replay", "kept_mine", "--code", "stored").check()
    assert stored.out.splitlines()[1:] == ["kept_mine/1 bit-exact over 3 epochs", "2 of 2 bit-exact"]
    now = kept.hpo("replay", "kept_mine/1")
    assert now.code == 1
    assert "module kept_helper was edited: " in now.out
    assert "module kept_mine was edited: " in now.out
    file = trained.path / "data.py"
    there = file.read_text()
    file.write_text(there.replace("held[:, 0]", "1 - held[:, 0]"))
    try:
        again = trained.look("replay", "again/1", "--code", "stored")
    finally:
        file.write_text(there)
    assert again.check().out == f"again/1 bit-exact over {EPOCHS} epochs\n"


def test_stored_code_that_was_changed_is_never_unpacked(kept: Workplace) -> None:
    """And it goes when its study is deleted."""
    (file,) = kept.path.glob("hpo-artifacts/kept_mine-*/code/*.zip")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"kept_mine.py", b"kept_evil.py"))
    shown = kept.look("replay", "kept_mine/1", "--code", "stored")
    file.write_bytes(content)
    assert (shown.code, shown.out) == (1, "")
    assert "was damaged" in shown.err
    kept.look("delete", "kept_mine", "--yes").check()
    assert not file.exists()


def test_where_no_code_is_stored_a_sentence_says_what_to_do(again: Again) -> None:
    row = reading.get_study(again.database, "again")
    assert row.code is not None
    bare = replace(row, code={name: one for name, one in row.code.items() if name != "kept"})
    with (
        pytest.raises(UserError, match="no code is stored of again"),
        replaying.stored_code(bare, again.folder),
    ):
        pass


def test_what_has_no_result_cannot_be_replayed(trained: Workplace) -> None:
    shown = trained.look("replay", "again/99")
    assert (shown.code, shown.err) == (3, "hpo: again has no trial 99; it has 3 so far\n")
