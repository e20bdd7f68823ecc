"""The JSON API: it answers what its document says, and does what the command line does."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sqlalchemy.engine import Connection
from starlette.testclient import TestClient

from hpo.dashboard import actions, api, openapi
from hpo.dashboard import live as outlines
from hpo.dashboard.board import Board
from hpo.dashboard.live import LiveStudy
from hpo.report.records import progress, scores
from hpo.studies import commands, reading
from storage.database.engine import Database
from storage.database.records import Repeat, TicketState
from storage.database.tables import ticket
from storage.history.trials import ids_of
from storage.queue import launches, repeats, studies

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
GETS = {
    "/studies": "/studies",
    "/studies/{study}": "/studies/digits",
    "/studies/{study}/events": "/studies/digits/events",
    "/studies/{study}/trials": "/studies/digits/trials?sort=-value&size=5",
    "/studies/{study}/trials/{trial:number}": "/studies/digits/trials/9",
    "/studies/{study}/trials/{trial:number}/charts": "/studies/digits/trials/9/charts",
    "/studies/{study}/trials/{trial:number}/log": "/studies/digits/trials/9/log",
    "/studies/{study}/charts/{chart}": "/studies/digits/charts/history-1",
    "/studies/{study}/metrics": "/studies/digits/metrics",
    "/studies/{study}/curves": "/studies/digits/curves?trials=9,3",
    "/studies/{study}/audit": "/studies/digits/audit",
    "/workers": "/workers?study=digits",
    "/launches": "/launches",
    "/compare": "/compare?study=digits",
    "/compare/{over}": "/compare/trials?study=digits",
}


def test_the_document_is_the_one_in_docs(owner: TestClient) -> None:
    """docs/openapi.json is what is served (`python -m hpo.dashboard.openapi` writes it)."""
    assert json.loads(DOCUMENT.read_text()) == openapi.document(api.ENDPOINTS, api.PREFIX)
    assert owner.get("/api/v1/openapi.json").json() == openapi.document(api.ENDPOINTS, api.PREFIX)


def test_the_document_names_all_that_actions_take() -> None:
    taken = set(re.findall(r'form(?:\.get\(|, )"(\w+)"', inspect.getsource(actions)))
    paths = openapi.document(api.ENDPOINTS, api.PREFIX)["paths"]
    body = paths[f"{api.PREFIX}/studies/{{study}}/actions/{{action}}"]["post"]["requestBody"]
    named = body["content"]["application/json"]["schema"]["properties"].keys()
    assert taken == named | {"sure"}  # what a page's form says when its question was answered


def test_what_was_reported_confirmed_and_tested_stands_side_by_side(
    database: Database, owner: TestClient
) -> None:
    row = reading.get_study(database, "digits")
    best = owner.get("/api/v1/studies/digits").json()["trial"]
    seen = {best: (0.5, 0.6, 0.4, 0.5), 7: (0.7, 0.8, 0.6, 0.7)}
    ids = database.read(lambda c: ids_of(c, row, seen))
    asked = [(Repeat(ids[n], n, seed), {"x": 0.5}) for n in seen for seed in range(4)]
    its = database.write(lambda c: repeats.add(c, row.id, asked))
    assert owner.get("/api/v1/studies/digits").json()["chosen"] == best  # nothing is known yet
    results = [value for values in seen.values() for value in values]

    def end(connection: Connection) -> None:
        for one, value in zip(repeats.listed(connection, its.id), results, strict=True):
            repeats.say(connection, one.ticket_id, [value])
        its_tickets = ticket.update().where(ticket.c.study_id == its.id)
        connection.execute(its_tickets.values(state=TicketState.COMPLETE))
        tested = {"trial": 7, "evaluation": {"metrics": {"accuracy": 0.625}}}
        studies.remember(connection, row.id, "test_evaluation", tested)

    database.write(end)
    found = owner.get("/api/v1/studies/digits").json()
    assert (found["trial"], found["chosen"], found["test"]) == (best, 7, {"accuracy": 0.625})
    assert [one["estimate"]["mean"] for one in found["confirmation"]["settings"]] == [0.7, 0.5]
    page = owner.get("/studies/digits", headers={"Accept": "text/html"}).text
    assert "Trained again with 4 fresh seeds, the setting of trial 7 comes to 0.7 on average" in page
    line = page[page.index("Trained again with fresh seeds") :]
    assert "<td>0.7</td>" in line
    assert "<td>0.625</td>" in line


def test_every_route_is_documented() -> None:
    documented = openapi.document(api.ENDPOINTS, api.PREFIX)["paths"]
    for item in api.ENDPOINTS:
        path = api.PREFIX + item.path.replace(":number}", "}")
        operation = documented[path][item.method.lower()]
        assert operation["summary"].endswith(".")
        assert {"200", "400", "401", "403", "404", "503"} <= operation["responses"].keys()
    assert len(api.routes()) == len(api.ENDPOINTS) + 2


def demand_shape(found: Any, shape: str) -> None:
    """`found` has what the document says of this shape, and nothing else."""
    components = openapi.document(api.ENDPOINTS, api.PREFIX)["components"]
    for schema in components["schemas"].values():
        schema["additionalProperties"] = False
    jsonschema.validate(found, {"$ref": f"#/components/schemas/{shape}", "components": components})


@pytest.mark.parametrize(
    "item", [item for item in api.ENDPOINTS if item.method == "GET"], ids=lambda i: i.path
)
def test_answers_are_of_the_documented_shape(item: openapi.Endpoint, viewer: TestClient) -> None:
    """Nothing undocumented, nothing missing, and JSON without NaN."""
    answer = viewer.get(api.PREFIX + GETS[item.path])
    assert answer.status_code == 200, answer.text

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    demand_shape(json.loads(answer.text, parse_constant=refuse), item.shape.__name__)


def test_errors_are_of_the_documented_shape(owner: TestClient) -> None:
    for path in ("/studies/nix", "/studies/digits/trials/999", "/studies?sort=x", "/nothing"):
        answer = owner.get(api.PREFIX + path)
        assert answer.status_code in (400, 404)
        demand_shape(answer.json(), "Problem")


def test_trials_are_sorted_filtered_and_paged(viewer: TestClient) -> None:
    def numbers(query: str) -> list[int]:
        found = viewer.get(f"/api/v1/studies/digits/trials?{query}").json()
        return [trial["number"] for trial in found["trials"]]

    assert numbers("sort=-value&size=3") == [9, 8, 7]
    assert numbers("sort=-value&size=3&page=2") == [6, 5, 2]
    assert numbers("sort=param:x&size=2") == [0, 1]
    assert numbers("state=failed") == [3]
    assert numbers("state=pruned") == [4]
    assert numbers("state=running") == [10]
    assert numbers("sort=-steps&size=1") == [0]
    assert numbers("where=value>0.4+x!=0.7&sort=-number") == [9, 8, 6, 5]
    assert viewer.get("/api/v1/studies/digits/trials?where=x<<1").status_code == 400
    assert numbers("page=9") == []


def test_a_trial_tells_everything(viewer: TestClient) -> None:
    trial = viewer.get("/api/v1/studies/digits/trials/3").json()
    assert trial["state"] == "failed"
    assert "Traceback" in trial["attempts_list"][0]["error"], (
        "for who is signed in, the objective's traceback"
    )
    trial = viewer.get("/api/v1/studies/digits/trials/9").json()
    assert trial["evaluation"]["metrics"] == {"accuracy": 0.75}
    assert [file["name"] for file in trial["artifacts"]] == [
        "drawn.png",
        "evaluation.json",
        "evil.png",
        "page.html",
        "steps.jsonl",
        "wrong.csv",
    ]
    assert trial["user_attrs"] == {"note": {"seen": [1, 2]}}
    assert trial["why"].startswith("Random search drew this point from the study's seed")
    assert trial["why"].split("'")[0] in viewer.get("/studies/digits/trials/9").text, "on its page, too"
    assert trial["metrics"]["accuracy"][-1] == {"step": 3, "value": 0.93}
    charts = viewer.get("/api/v1/studies/digits/trials/9/charts").json()["charts"]
    assert {chart["id"] for chart in charts} >= {"metric-accuracy", "metric-loss", "confusion", "roc", "pr"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.010000000000000004, 0.01), (0.1234567890123456, 0.1234567890123456), (3, 3), ("adam", "adam")],
)
def test_what_is_copied_is_the_value_without_the_noise_of_a_grid(value: object, shown: object) -> None:
    """The last bits of a grid's arithmetic are not shown; a value that was drawn is copied exactly."""
    assert commands.point_yaml({"x": value}) == f"- {{x: {shown}}}"


def test_launches_are_listed(viewer: TestClient, database: Database) -> None:
    row = reading.get_study(database, "digits")

    def launch(connection: Connection) -> None:
        made: dict[str, Any] = {
            "study_id": row.id,
            "launcher": "local",
            "host": "laptop",
            "workers": 2,
            "handle": {},
        }
        first = launches.add(connection, **made)
        launches.add(connection, **made)
        launches.mark_stopped(connection, first + 1)

    database.write(launch)
    found = viewer.get("/api/v1/launches").json()["launches"]
    assert [(item["id"], item["stopped"] is None) for item in found] == [(1, True), (2, False)]
    page = viewer.get("/workers", headers={"Accept": "text/html"}).text
    assert "laptop" in page


def act(owner: TestClient, action: str, **body: Any) -> tuple[int, str]:
    answer = owner.post(f"/api/v1/studies/digits/actions/{action}", json=body)
    return answer.status_code, next(iter(answer.json().values()))


def test_every_action_does_what_it_says(owner: TestClient, database: Database) -> None:
    def state() -> str:
        return reading.get_study(database, "digits").state.value

    assert act(owner, "pause") == (200, "digits is paused")
    assert state() == "paused"
    assert act(owner, "resume") == (200, "digits is running")
    assert state() == "running"
    status, said = act(owner, "enqueue", point="x=0.25")
    assert (status, "0.25" in said) == (200, True)
    assert act(owner, "enqueue", point={"x": 0.75})[0] == 200
    assert act(owner, "extend", trials="+5") == (200, "digits is running with 25 trials")
    assert act(owner, "retry", count=2) == (400, "1 trials of digits have failed by now, not 2; look again")
    assert act(owner, "retry", trial=3) == (200, "digits/3 waits again, as a new trial")
    assert act(owner, "retry", trial=3)[0] == 400
    assert act(owner, "retry") == (200, "digits has no failed trials")
    assert act(owner, "stop")[0] == 200
    assert state() == "stopping"
    assert act(owner, "cancel") == (200, "digits is cancelled; 1 running trial was ended")
    assert state() == "stopped"


@pytest.mark.parametrize(
    ("action", "body", "says"),
    [
        ("enqueue", {"point": "x=7"}, "x"),
        ("enqueue", {"point": ""}, "at least one"),
        ("enqueue", {"point": "x"}, "NAME=VALUE"),
        ("enqueue", {"point": {"y": 1}}, "y"),
        ("retry", {"trial": 9}, "neither failed nor diverged"),
        ("retry", {"trial": "nine"}, "whole number"),
        ("retry", {"trial": 10**30}, "no trial"),
        ("extend", {}, "say what to extend"),
        ("extend", {"trials": "many"}, "whole number"),
        ("extend", {"trials": -5}, "above 0"),
        ("extend", {"trials": 10**9}, "at most 1,000,000 trials"),
        ("extend", {"seconds": "nan"}, "above 0"),
        ("extend", {"target": []}, "number"),
    ],
)
def test_an_action_that_makes_no_sense_says_why(
    action: str, body: dict[str, Any], says: str, owner: TestClient
) -> None:
    status, said = act(owner, action, **body)
    assert status == 400, said
    assert says in said


def test_an_unknown_action_is_not_found(owner: TestClient) -> None:
    status, said = act(owner, "rename")
    assert status == 404
    assert all(name in said for name in actions.ACTIONS)


@pytest.mark.parametrize("body", [b"[]", b"{", b"null", b"\xff"])
def test_a_body_that_is_no_object_is_refused(body: bytes, owner: TestClient) -> None:
    answer = owner.post("/api/v1/studies/digits/actions/pause", content=body)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "chart", ["history-1", "learning", "parallel", "slice-1", "timeline", "best-seconds"]
)
def test_charts_are_drawn(chart: str, viewer: TestClient) -> None:
    found = viewer.get(f"/api/v1/studies/digits/charts/{chart}").json()
    assert found["figure"]["data"]
    assert "template" not in found["figure"]["layout"]


def test_what_plotly_looks_for_is_imported_before_it_draws() -> None:
    """It fails on a half imported pandas, so no thread may import it while another one draws."""
    code = "import sys, hpo.dashboard.charts; assert 'pandas' in sys.modules and 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_learning_curves_of_another_metric(viewer: TestClient) -> None:
    assert viewer.get("/api/v1/studies/digits/metrics").json() == {
        "metrics": ["accuracy", "train_loss"],
        "parameters": ["x"],
    }
    found = viewer.get("/api/v1/studies/digits/charts/learning?metric=train_loss&log=1").json()
    layout = found["figure"]["layout"]
    assert layout["yaxis"]["title"]["text"] == "train_loss"
    assert layout["yaxis"]["type"] == "log"
    found = viewer.get("/api/v1/studies/digits/charts/importances?metric=train_loss").json()
    assert found["caption"].count("Of the last train_loss. Over 8 trials") == 1
    assert viewer.get("/api/v1/studies/digits/charts/slice-1?x=x").json()["title"] == "x"
    for nothing in ("slice-1?x=nix", "contour?x=x&y=nix", "importances?metric=nix"):
        assert viewer.get(f"/api/v1/studies/digits/charts/{nothing}").json()["figure"] is None, nothing


def test_the_history_in_memory_is_the_one_in_the_database(
    database: Database, on_change: Callable[[], None]
) -> None:
    """Kept up to date with what changed, it equals one read anew; nothing changed is the same object."""
    live = LiveStudy(database, reading.get_study(database, "digits"))
    first = live.refresh()
    assert same(first, reading.history(database, "digits"))
    assert live.refresh() is first
    on_change()
    second = live.refresh()
    assert second is not first
    assert same(second, reading.history(database, "digits"))
    assert second.trials[0] is first.trials[0]


def test_a_study_in_outline_shows_the_same_history(database: Database) -> None:
    """The first picture is drawn from the values alone; it is the one the whole history gives."""
    row = reading.get_study(database, "digits")
    whole, rough = reading.history(database, "digits"), outlines.outline(database, row)
    assert progress.optimization_history(rough) == progress.optimization_history(whole)
    assert scores.value_name(outlines.sample(database, row, 9)) == scores.value_name(whole) == "accuracy"


def test_the_first_chart_does_not_wait_for_the_whole_history(early: TestClient, board: Board) -> None:
    """It is drawn in outline and says when to ask again; then it is of the version in memory, and equal."""
    first = early.get("/api/v1/studies/digits/charts/history-1").json()
    assert (first["version"], first["again"] > 0) == (0, True)
    board.history("digits")
    second = early.get("/api/v1/studies/digits/charts/history-1").json()
    assert (second["version"] > 0, "again" in second) == (True, False)
    assert second["figure"] == first["figure"]


def test_a_trials_page_and_charts_read_no_other_trials_reports(early: TestClient, board: Board) -> None:
    """They are the same as when the whole history is in memory."""
    page, charts = "/studies/digits/trials/9", "/api/v1/studies/digits/trials/9/charts"
    early.get(page, headers={"Accept": "text/html"})
    before = early.get(charts).json()
    assert board.live("digits").known is None
    board.history("digits")
    assert early.get(charts).json() == before


def same(ours: Any, theirs: Any) -> bool:
    def plain(history: Any) -> Any:
        trials = [{**vars(trial), "metrics": {}} for trial in history.trials]
        return {**vars(history), "trials": trials}

    assert plain(ours) == plain(theirs)
    return True


@pytest.fixture
def on_change(database: Database, sqlite_url: str) -> Callable[[], None]:
    """What a worker does meanwhile: the running trial reports and ends, another begins."""
    from tests.support.shared import Party

    def work() -> None:
        party = Party(sqlite_url, reading.get_study(database, "digits"))
        claim = party.claim()
        party.start(claim, x=0.42)
        party.writer.report(1, 0.99, {})
        party.complete(0.99)
        party.begin()
        party.close()

    return work


def test_a_former_winners_test_result_is_nobodys(viewer: TestClient, database: Database) -> None:
    """After a new best trial neither page nor API shows what the one before was measured at."""
    row = reading.get_study(database, "digits")

    def measured(trial: int) -> Any:
        note = {"trial": trial, "evaluation": {"split": "test", "metrics": {"accuracy": 0.123456}}}
        database.write(lambda c: studies.remember(c, row.id, "test_evaluation", note))
        found = viewer.get("/api/v1/studies/digits").json()["test"]
        return found, "measured once" in viewer.get("/studies/digits", headers={"Accept": "text/html"}).text

    assert measured(9) == ({"accuracy": 0.123456}, True), "9 is the best"
    assert measured(0) == (None, False)


def test_a_store_whose_driver_is_not_here_costs_the_log_alone(database: Database) -> None:
    row = dataclasses.replace(reading.get_study(database, "digits"), artifacts="gs://bucket/hpo")
    assert reading.read_log(row, 0, 1, 0, 100) is None
    assert reading.read_evaluation(database, row, 9) is None
