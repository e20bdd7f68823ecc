"""Stars, tags and notes: set by whoever may act, found by the filter, read by plain Optuna; and deletion."""

from __future__ import annotations

import optuna
from starlette.testclient import TestClient

from hpo.settings import Settings
from hpo.studies import selection
from hpo.studies.creation import create
from hpo.studies.reading import history
from storage.database.engine import Database
from tests.dashboard.conftest import TOKEN, VIEW_TOKEN
from tests.dashboard.seeded import make_spec

MARK = "/api/v1/studies/digits/actions/mark"


def numbers(client: TestClient, where: str) -> list[int]:
    found = client.get("/api/v1/studies/digits/trials", params={"where": where}).json()
    return [trial["number"] for trial in found["trials"]]


def test_marks_are_set_found_and_survive_a_foreign_reader(
    owner: TestClient, database: Database, sqlite_url: str
) -> None:
    """A history that was read before follows; a tag taken away is gone; the table, its CSV and plain Optuna
    show them; who did what is kept.
    """
    assert numbers(owner, "star") == []
    for form in (
        {"trial": "2,5", "tags": "good, slow", "star": "1"},
        {"trial": "5", "tags": "-slow", "star": "0", "note": "<b>too wide</b>"},
    ):
        assert owner.post(MARK, json=form).status_code == 200
    assert numbers(owner, "star") == [2]
    assert numbers(owner, "tag=good") == [2, 5]
    assert numbers(owner, "tag=slow,other") == [2]
    assert numbers(owner, "tag!=slow best=3 note~WIDE") == []
    assert numbers(owner, "tag!=slow note~WIDE") == [5]
    page = owner.get("/studies/digits?where=tag=good").text
    assert "good slow" in page
    assert "&lt;b&gt;too wide" in page
    assert "starred" in page
    table = owner.get("/studies/digits/trials.csv?where=tag=good&columns=number,tag,note,star").text
    assert table.split() == [
        "number,tag,note,star",
        "5,good,<b>too",
        "wide</b>,False",
        "2,good",
        "slow,,True",
    ]
    foreign = optuna.load_study(study_name="digits", storage=sqlite_url)
    assert foreign.trials[2].user_attrs == {"hpo:star": True, "hpo:tags": ["good", "slow"]}
    assert foreign.trials[9].user_attrs == {"note": {"seen": [1, 2]}}
    assert owner.post(MARK, json={"note": "for the paper"}).status_code == 200
    assert "for the paper" in owner.get("/studies/digits").text
    assert [e["what"] for e in owner.get("/api/v1/studies/digits/events").json()["events"]][-3:] == [
        "mark"
    ] * 3
    assert selection.select(history(database, "digits"), ["star=true"])[0].number == 2


def test_what_cannot_be_a_mark_is_refused_and_who_only_looks_sets_none(
    anyone: TestClient, database: Database
) -> None:
    wrong = (
        {"trial": "99", "star": "1"},
        {"trial": "x", "star": "1"},
        {"trial": "1"},
        {"star": "1"},
        {"trial": "1", "tags": "a=b"},
        {"trial": "1", "tags": " ".join(f"t{i}" for i in range(21))},
        {"note": "x" * 2001},
    )
    anyone.headers["Authorization"] = f"Bearer {TOKEN}"
    for form in wrong:
        assert anyone.post(MARK, json=form).status_code == 400, form
    anyone.headers["Authorization"] = f"Bearer {VIEW_TOKEN}"
    assert anyone.post(MARK, json={"trial": "1", "star": "1"}).status_code == 403
    assert not any(trial.star or trial.tags or trial.note for trial in history(database, "digits").trials)


def test_a_study_is_deleted_by_its_typed_name_alone(
    owner: TestClient, database: Database, sqlite_url: str
) -> None:
    create(database, make_spec("wrong"), Settings(storage=sqlite_url, artifacts="memory://x"))
    delete = "/api/v1/studies/wrong/actions/delete"
    for form in ({}, {"name": "wron"}):
        assert owner.post(delete, json=form).status_code == 400
    assert owner.post(delete, json={"name": "wrong"}).json()["message"] == "wrong is deleted"
    assert owner.get("/api/v1/studies/wrong").status_code == 404
