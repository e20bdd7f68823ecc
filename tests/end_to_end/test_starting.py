"""`hpo init`, then `hpo run`: a first search in two commands, and no file is edited."""

from __future__ import annotations

import io

import pytest
import yaml

from hpo.cli.starting import settings_of
from tests.end_to_end.workplace import Workplace

SCRIPT = """
    import argparse, json
    LR = 3e-3
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", "-l", type=float, default=LR)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--dropout", default=0.1, type=float)
    parser.add_argument("--hidden-size", type=int, default=64, dest="hidden")
    parser.add_argument("--layers", default=2, type=int)
    parser.add_argument("--optimizer", choices=["sgd", "adam"], default="adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--out", default=str(1))
    parser.add_argument("data", type=str)
    args = parser.parse_args()
    for epoch in range(1, args.epochs + 1):
        print(json.dumps({"step": epoch, "value": args.lr * args.layers / epoch}))
    print(json.dumps({"result": args.lr * args.hidden}))
"""


def test_a_first_search_is_two_commands(place: Workplace) -> None:
    """What is written runs as it is, sees the test set once, and is never written over."""
    assert "`hpo init` writes one" in place.look("run").check(2).err
    assert place.look("init", "--trials", "3").check().out == "hpo run\n"
    run = place.hpo("run", "--no-report", "--runners", "1").check()
    assert "test accuracy" in run.out
    trials = place.trials("search")
    assert len(trials) == 3
    assert trials[0]["values"][0] > 0.5
    (place.path / "study.yaml").unlink()
    again = place.look("init").check(2)
    assert "objective.py is there already, and stays as it is" in again.err
    assert not (place.path / "study.yaml").exists()


def test_a_script_is_read_and_searched(place: Workplace) -> None:
    """Its options become a space by their defaults and choices; what it demands must be given."""
    place.write("code/train.py", SCRIPT)
    demanded = place.look("init", "--from", "code/train.py").check(2)
    assert "hpo init --from code/train.py -- VALUE" in demanded.err
    words = ("--from", "code/train.py", "--trials", "2", "--direction", "minimize", "--minutes", "5")
    made = place.look("init", *words, "--", "images").check()
    assert "left at what train.py says: --out" in made.err
    study = yaml.safe_load((place.path / "study.yaml").read_text())
    assert study["budget"] == {"trials": 2, "seconds": 300.0}
    assert study["fixed"] == {"epochs": 3}
    assert study["enqueue"] == [{"lr": 3e-3, "dropout": 0.1, "hidden": 64, "layers": 2, "optimizer": "adam"}]
    assert study["space"] == {
        "lr": {"type": "float", "low": 0.0003, "high": 0.03, "log": True},
        "weight_decay": {"type": "float", "low": 1e-06, "high": 0.01, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5},
        "hidden": {"type": "int", "low": 16, "high": 256, "log": True},
        "layers": {"type": "int", "low": 1, "high": 8},
        "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
    }
    assert (
        "study.yaml is a valid study: search, tpe, 2 trials" in place.look("check", "study.yaml").check().out
    )
    options = [word for word in study["command"] if word.startswith("--")]
    assert study["command"][:3] == ["{python}", "code/train.py", "images"]
    assert options == [
        "--lr",
        "--weight-decay",
        "--dropout",
        "--hidden-size",
        "--layers",
        "--optimizer",
        "--seed",
        "--epochs",
    ]


def test_a_person_at_a_terminal_is_asked(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five questions, each with an answer that return gives; what is no number is asked again."""
    terminal = io.StringIO("\nmine\n\nmany\n7\n1.5\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    made = place.look("init").check()
    assert "valid integer" in made.err
    study = yaml.safe_load((place.path / "study.yaml").read_text())
    assert (study["study"], study["direction"]) == ("mine", "maximize")
    assert study["budget"] == {"trials": 7, "seconds": 90.0}
    monkeypatch.setattr("sys.stdin", terminal)
    place.look("init").check(130)  # nobody answers any more


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("print('hello'", "train.py is no Python that can be read"),
        ("print('hello')", "train.py has no settings to search that can be read"),
        (None, "train.py cannot be read: No such file"),
    ],
)
def test_what_cannot_be_searched_is_a_sentence(source: str | None, said: str, place: Workplace) -> None:
    if source is not None:
        place.write("train.py", source)
    assert said in place.look("init", "--from", "train.py").check(2).err
    assert not (place.path / "study.yaml").exists()


def test_a_script_is_never_run_to_read_it() -> None:
    """What is not written out is not known, and nothing is called to find it out."""
    source = "p.add_argument('--lr', type=float, default=1/0)\np.add_argument(name)\nraise SystemExit"
    assert [(one.name, one.default, one.space()) for one in settings_of(source, "x")] == [("lr", None, None)]
