"""`hpo doctor` says what would cost a trial, before it does."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.cli import diagnosis
from tests.end_to_end.workplace import Workplace


def diagnose(place: Workplace, *words: str, code: int = 0, here: bool = False) -> dict[str, tuple[str, str]]:
    """What was found, by what was looked at; `here`: by this process, whose imports it shares."""
    ask = place.look if here else place.hpo
    rows = ask("doctor", *words, "--format", "json").check(code).json
    return {row["check"]: (row["state"], row["found"]) for row in rows}


def test_a_machine_that_has_everything_passes(place: Workplace) -> None:
    place.run(place.study("s", budget={"trials": 1})).check()
    found = diagnose(place, "s")
    assert {state for check, (state, _) in found.items() if check != "privacy"} <= {"ok"}
    assert {"python", "torch", "devices", "database", "schema", "clock", "study", "objective", "code"} < set(
        found
    )
    assert {"artifacts", "disk"} < set(found)
    assert "ms a read" in found["database"][1]
    assert not list(place.path.glob("**/doctor-*")), "the scratch file is gone"


def test_what_would_cost_a_trial_is_wrong_and_ends_with_1(place: Workplace) -> None:
    """Other code than the study's, and a store that cannot be written."""
    place.run(place.study("s", budget={"trials": 1})).check()
    place.write("s.py", "import gone\ndef objective(trial):\n    return 0.0\n")
    (place.path / "hpo-artifacts").rename(place.path / "away")
    (place.path / "hpo-artifacts").write_text("a file is in the way")
    found = diagnose(place, "s", code=1)
    assert found["objective"][0] == "wrong"
    assert "gone" in found["objective"][1]
    assert found["artifacts"][0] == "wrong"
    place.write("gone.py", "")
    found = diagnose(place, "s", code=1)
    assert found["objective"][0] == "ok"
    assert found["code"][0] == "wrong"
    assert "module s was edited" in found["code"][1]


def test_data_that_is_not_here_is_missed_before_the_first_trial(place: Workplace) -> None:
    def study(**fixed: Any) -> Path:
        return place.spec(
            "d", objective="objectives.classifier", direction="maximize", fixed=fixed, space=None
        )

    assert diagnose(place, study(dataset="digits").name, here=True)["data"] == ("ok", "digits can be loaded")
    state, why = diagnose(place, study(dataset="mnist", data_root="nowhere").name, code=1, here=True)["data"]
    assert state == "wrong"
    assert "nowhere" in why
    state, why = diagnose(place, study(dataset="mnist", data_root="nowhere", download=True).name, here=True)[
        "data"
    ]
    assert "downloads it" in why


def test_an_answer_that_took_long_makes_no_clock_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database told its time when it began to answer, and the quickest answer counts."""
    now, waits = [1000.0], iter([0.1, 0.1, 0.1, 0.1, 20.0])

    def read(_verb: Any) -> float:
        told = now[0]
        now[0] += next(waits)
        return told

    clock = SimpleNamespace(time=lambda: now[0], perf_counter=lambda: now[0])
    monkeypatch.setattr(diagnosis, "time", clock)
    found = list(diagnosis._database(SimpleNamespace(read=read, shown_url="sqlite:///x.db")))  # type: ignore[arg-type]
    assert {one.state for one in found} == {"ok"}


CARDS = """#!/bin/sh
case "$*" in
  *driver*) echo 570.86.15 ;;
  *) echo "0, GPU-aaaa, NVIDIA H200, 143771" ;;
esac
"""


@pytest.mark.parametrize(("gpus", "state"), [("all", "wrong"), ("none", "note")])
def test_cards_that_pytorch_cannot_use_are_told(place: Workplace, gpus: str, state: str) -> None:
    """A stand-in nvidia-smi shows a card that is not there."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine's PyTorch can use its cards")
    place.write("bin/nvidia-smi", CARDS).chmod(0o755)
    place.env["PATH"] = f"{place.path / 'bin'}:/usr/bin:/bin"
    found = diagnose(place, "--gpus", gpus, code=int(state == "wrong"), here=True)
    assert found["driver"][0] == state
    assert "570.86.15" in found["driver"][1]


def test_what_every_user_of_the_machine_can_read_is_told(place: Workplace) -> None:
    """The database, the artifacts, a token in .env; not where a directory above keeps others out."""
    place.look("create", place.study("s").name).check()
    (place.path / "hpo-artifacts").mkdir(exist_ok=True)
    place.write(".env", "HPO_DASHBOARD_TOKEN=x")
    open_ones = [place.path / name for name in (".env", "hpo.db", "hpo-artifacts")]
    for one in open_ones:
        one.chmod(0o755)
    above = [folder for folder in place.path.parents if folder.stat().st_uid == os.geteuid()]
    modes = [folder.stat().st_mode for folder in above]
    try:
        for folder in (place.path, *above):
            folder.chmod(0o711)
        assert told(place) == open_ones
        place.path.chmod(0o700)
        assert told(place) == []
    finally:
        for folder, mode in zip(above, modes, strict=True):
            folder.chmod(mode)


def told(place: Workplace) -> list[Path]:
    """What `hpo doctor` notes that everybody can read."""
    rows = place.look("doctor", "--format", "json").json
    notes = [row["found"] for row in rows if row["check"] == "privacy"]
    return [Path(note.partition(" can be read by every user")[0]) for note in notes]
