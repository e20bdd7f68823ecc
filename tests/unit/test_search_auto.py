"""What a study gets whose file names no sampler or pruner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.errors import UserError
from hpo.report.records.summary import summarize
from hpo.search.auto import chosen
from hpo.settings import Settings
from hpo.spec import parse_spec
from hpo.studies import reading
from hpo.studies.creation import create_or_continue
from hpo.wiring import open_storage

OURS: dict[str, Any] = {
    "study": "left-open",
    "objective": "objectives.classifier",
    "direction": "maximize",
    "budget": {"trials": 60},
    "space": {"lr": {"type": "float", "low": 1e-4, "high": 1, "log": True}},
    "fixed": {"dataset": "digits", "epochs": 20},
}


@pytest.mark.parametrize(
    ("changed", "sampler", "pruner"),
    [
        ({}, "rungs", "asha"),
        ({"sampler": "auto", "pruner": "auto"}, "rungs", "asha"),
        ({"fixed": {"dataset": "digits", "epochs": 8}}, "tpe", "none"),
        ({"fixed": {"dataset": "digits"}}, "tpe", "none"),
        ({"objective": "mine.py"}, "tpe", "none"),
        ({"budget": {"trials": 19}}, "tpe", "none"),
        ({"budget": {"epochs": 1000}}, "rungs", "asha"),
        ({"direction": None, "directions": ["maximize", "minimize"]}, "tpe", "none"),
        ({"pruner": "none"}, "tpe", "none"),
        ({"pruner": {"name": "asha", "max_epochs": 20}}, "tpe", "asha"),
        ({"pruner": {"name": "hyperband", "max_epochs": 20, "mode": "promote"}}, "rungs", "hyperband"),
        ({"sampler": "random"}, "random", "none"),
        ({"sampler": "random", "pruner": "auto"}, "random", "asha"),
        ({"sampler": "grid", "pruner": "auto", "space": {"a": {"type": "int", "low": 1, "high": 9}}},
         "grid", "none"),
    ],
)  # fmt: skip
def test_what_is_chosen(changed: dict[str, Any], sampler: str, pruner: str) -> None:
    """Promotion where trials are known to report and to go on; what the file names stays."""
    content = {name: value for name, value in {**OURS, **changed}.items() if value is not None}
    spec = chosen(parse_spec(content))
    assert (spec.sampler.name, spec.pruner.name) == (sampler, pruner)
    named = changed.get("sampler", "auto") != "auto" and changed.get("pruner") != "auto"
    assert bool(spec.chosen) is not named
    assert chosen(spec) == spec
    if pruner == "asha" and "pruner" not in changed:
        assert spec.pruner.model_dump(include={"min_epochs", "max_epochs", "mode"}) == {
            "min_epochs": 1,
            "max_epochs": 20,
            "mode": "promote",
        }


@pytest.mark.parametrize(
    ("changed", "search"),
    [
        ({"budget": {"epochs": 740}}, 620),
        ({"budget": {"epochs": 739}}, None),
        ({"budget": {"epochs": 740}, "confirm": False}, None),
        ({"budget": {"epochs": 740}, "sampler": "tpe"}, None),
        ({"budget": {"epochs": 740}, "objective": "mine.py"}, None),
        ({"budget": {"trials": 740}}, None),
    ],
)
def test_where_epochs_have_room_for_37_trials_six_of_them_confirm_the_best_unless_the_file_says_so(
    tmp_path: Path, changed: dict[str, Any], search: int | None
) -> None:
    """The study's budget is what remains; the same file finds it again, and it keeps its confirmation."""
    settings = Settings(storage=f"sqlite:///{tmp_path}/h.db", artifacts=str(tmp_path))
    database, spec = open_storage(settings), parse_spec({**OURS, **changed})
    row, _ = create_or_continue(database, spec, settings)
    if search is None:
        assert not row.spec["confirm"]
        assert row.budget_epochs == spec.budget.epochs
    else:
        assert row.spec["confirm"] == {"top": 3, "seeds": 2, "in_budget": True}
        assert row.budget_epochs == search
        assert f"{search} of its epochs are for the search" in row.spec["chosen"]
    assert create_or_continue(database, spec, settings) == (row, False)


def test_a_confirmation_in_the_budget_is_neither_added_nor_changed_once_the_search_has_its_epochs(
    tmp_path: Path,
) -> None:
    """One on top of the budget may come at any time, and replace one in it."""
    settings = Settings(storage=f"sqlite:///{tmp_path}/h.db", artifacts=str(tmp_path))
    database, room = open_storage(settings), {**OURS, "budget": {"epochs": 2000}}
    for study, first, later in (
        ("without", {"confirm": False}, {"top": 3, "seeds": 2, "in_budget": True}),
        ("with", {}, {"top": 4, "seeds": 2, "in_budget": True}),
    ):
        named = {**room, "study": study}
        row, _ = create_or_continue(database, parse_spec({**named, **first}), settings)
        with pytest.raises(UserError, match=f"{study} exists, and the epochs of its search are decided"):
            create_or_continue(database, parse_spec({**named, "confirm": later}), settings)
        changed, _ = create_or_continue(database, parse_spec({**named, "confirm": {"top": 4}}), settings)
        assert changed.spec["confirm"] == {"top": 4, "seeds": 10, "in_budget": False}
        assert changed.budget_epochs == row.budget_epochs


def test_a_study_keeps_what_was_chosen_and_says_why(tmp_path: Path) -> None:
    """The file finds its study again, as does one that names what was chosen; another choice is refused."""
    settings = Settings(storage=f"sqlite:///{tmp_path}/h.db", artifacts=str(tmp_path))
    database = open_storage(settings)
    row, created = create_or_continue(
        database, parse_spec({**OURS, "sampler": {"name": "auto", "seed": 3}}), settings
    )
    assert created
    assert (row.seed, row.spec["sampler"]["name"], row.spec["pruner"]["mode"]) == (3, "rungs", "promote")
    for same in (
        {"sampler": {"name": "auto", "seed": 3}},
        {"sampler": row.spec["sampler"], "pruner": row.spec["pruner"]},
    ):
        assert create_or_continue(database, parse_spec({**OURS, **same}), settings) == (row, False)
    for other in ({"sampler": "auto"}, {"sampler": {"name": "tpe", "seed": 3}}):
        with pytest.raises(UserError, match="another study named left-open"):
            create_or_continue(database, parse_spec({**OURS, **other}), settings)
    history = reading.history(database, row.name)
    assert "rungs and asha" in row.spec["chosen"]
    assert f"Chosen by hpo: {row.spec['chosen']}." in summarize(history).sentences or not history.trials


def test_a_study_from_before_goes_on_as_it_was(tmp_path: Path) -> None:
    """A file that names none has the digest that it had, and finds the study that it made then: with TPE."""
    settings = Settings(storage=f"sqlite:///{tmp_path}/h.db", artifacts=str(tmp_path))
    database = open_storage(settings)
    before = parse_spec({**OURS, "sampler": "tpe", "pruner": "none"})
    assert before.digest == parse_spec(OURS).digest
    row, _ = create_or_continue(database, before, settings)
    assert create_or_continue(database, parse_spec(OURS), settings) == (row, False)
