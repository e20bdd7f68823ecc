"""The table of trials: what is asked for stands in the address, for the page, the API and the file alike."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

from optuna.distributions import CategoricalDistribution
from starlette.testclient import TestClient

from hpo.dashboard.live import LiveStudy
from hpo.dashboard.table import Wish, as_csv, list_trials
from hpo.settings import Settings
from hpo.studies import steering
from hpo.studies.creation import create
from hpo.studies.reading import get_study
from storage.database.engine import Database
from storage.database.records import TicketState
from tests.dashboard.seeded import HOSTILE, make_spec
from tests.support.shared import Party

HTML = {"Accept": "text/html"}


def numbers_of(page: str) -> list[int]:
    table = page[page.index('id="trials"') :]
    return [int(number) for number in re.findall(r'<tr data-trial="(\d+)"', table)]


def test_a_page_shows_the_trials_and_columns_that_its_address_asks_for(viewer: TestClient) -> None:
    """The filter, the order, the page size and the columns; every link keeps the rest."""
    query = "where=x>=0.2+state=complete&sort=-x&columns=number,min:train_loss,x&size=3"
    page = viewer.get(f"/studies/digits?{query}", headers=HTML).text
    assert numbers_of(page) == [9, 8, 7]
    assert "6 trials meet this" in page
    assert re.findall(r'<th scope="col"[^>]*><a [^>]*>([^<]*)', page) == ["Trial", "min train_loss", "x"]
    assert re.search(r'data-trial="9".*?<td>0.07</td>\s*<td>0.9</td>', page, re.DOTALL)
    following = re.search(r'<a rel="next" href="([^"]*)"', page)
    assert following
    page = viewer.get(f"/studies/digits{following[1].replace('&amp;', '&')}", headers=HTML).text
    assert numbers_of(page) == [6, 5, 2]
    assert "min train_loss" in page
    assert numbers_of(viewer.get("/studies/digits?state=pruned", headers=HTML).text) == [4]


def test_what_is_wrong_with_a_filter_is_said_beside_it(viewer: TestClient) -> None:
    for query, told in {
        "where=y%3D1": "no trial of this study has &#39;y&#39;",
        "where=x": "is no condition",
        "sort=nix": "no trial of this study has &#39;nix&#39;",
        f"where=%22{HOSTILE}%22": "is no condition",
        "where=" + "x%3D1+" * 61: "at most 60",
    }.items():
        answer = viewer.get(f"/studies/digits?{query}", headers=HTML)
        assert answer.status_code == 200, query
        assert re.search(f'role="alert">[^<]*{re.escape(told)}', answer.text), query
        assert HOSTILE not in answer.text


def test_charts_show_what_the_filter_leaves(viewer: TestClient) -> None:
    def points(query: str) -> list[int]:
        found = viewer.get(f"/api/v1/studies/digits/charts/history-1?{query}").json()
        drawn = [trace for trace in found["figure"]["data"] if trace["mode"] == "markers"]
        return sorted(number for trace in drawn for number in trace["customdata"])

    assert points("where=x<0.3") == [0, 1, 2]
    assert points("where=best%3D2") == [8, 9]
    assert viewer.get("/api/v1/studies/digits/charts/history-1?where=x").status_code == 400


def test_a_file_has_every_trial_of_the_selection_and_runs_nothing(
    viewer: TestClient, database: Database, sqlite_url: str
) -> None:
    """A name that a spreadsheet would take for a formula is text in it."""
    party = Party(sqlite_url, get_study(database, "digits"))
    party.start(party.claim(), x=0.123)
    evil = '=HYPERLINK("http://evil")'
    party.writer.add_params({"kind": evil}, {"kind": CategoricalDistribution([evil])})
    party.complete(0.5)
    party.close()
    answer = viewer.get("/studies/digits/trials.csv?where=x>0.05+state!=failed,running&sort=-x&size=2")
    assert answer.headers["content-disposition"].startswith("attachment;")
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert [row["number"] for row in rows] == ["9", "8", "7", "6", "5", "4", "2", "11", "1"]
    assert rows[7]["kind"] == "'" + evil
    chosen = viewer.get("/studies/digits/trials.csv?where=number%3D9&columns=value,max:train_loss,error").text
    assert chosen.splitlines() == ["value,max:train_loss,error", "0.9,0.08999999999999997,"]


def test_a_filter_by_a_metric_follows_the_search(database: Database, sqlite_url: str) -> None:
    """Metrics are read once for a filter; what a trial logs later counts, too."""
    row = get_study(database, "digits")
    live = LiveStudy(database, row)
    wish = Wish("min:train_loss<0.2", "min:train_loss")
    assert [trial.number for trial in list_trials(live, wish).trials] == [9, 8]
    party = Party(sqlite_url, row)
    _, trial = party.begin()
    party.writer.report(1, 0.5, {"train_loss": 0.01})
    assert [found.number for found in list_trials(live, wish).trials] == [trial.number, 9, 8]
    party.writer.report(2, 0.5, {"train_loss": 0.001})
    party.writer.deliver(TicketState.PRUNED, None)
    party.close()
    wish = replace(wish, where="state=pruned min:train_loss<0.005", columns=("number",))
    assert [found.number for found in list_trials(live, wish).trials] == [trial.number]
    assert as_csv(live, wish).decode().split() == ["number", str(trial.number)]


def test_a_page_says_why_nothing_runs(viewer: TestClient, database: Database, tmp_path: Path) -> None:
    """It waits for its first worker; its last one left; every one is quarantined, and why."""
    settings = Settings(storage=str(database.url), artifacts=str(tmp_path))
    row = create(database, make_spec("stuck"), settings)

    def told() -> str:
        page = viewer.get("/studies/stuck", headers=HTML).text
        found = re.search(r"<h3>Running now</h3>\s*<p[^>]*>([^<]*)", page)
        return found[1] if found else "it runs"

    assert told() == "waits for its first worker"
    party = Party(f"sqlite:///{tmp_path / 'hpo.db'}", row, name="box:1")
    party.begin()
    assert told() == "it runs"
    party.writer.fail("Traceback\nRuntimeError: no GPU here")
    assert told() == "no trial runs at the moment; a worker is here"
    for _ in range(4):
        party.begin()
        party.writer.fail("Traceback\nRuntimeError: no GPU here")
    assert told().startswith("1 worker quarantined. box:1: its first 5 attempts all failed")
    page = viewer.get("/studies/stuck", headers=HTML).text
    assert "All 5 trials failed, most with: RuntimeError: no GPU here." in page
    assert re.search(r'where=state%3Dfailed\+[^"]*no\+GPU\+here[^"]*">5</a>', page)
    assert ">None yet.<" in page
    party.close()
    steering.stop(database, row)
    page = viewer.get("/studies/stuck", headers=HTML).text
    assert ">None.<" in page, "nobody waits for the best of a search that has ended"
    assert "yet" not in page[: page.index('id="trials"')]


def test_the_axis_shows_the_logarithm_of_the_distance_to_the_best(viewer: TestClient) -> None:
    found = viewer.get("/api/v1/studies/digits/charts/history-1?log=distance&where=state=complete").json()
    axes = [
        viewer.get(f"/api/v1/studies/digits/charts/history-1{asked}").json()["figure"]["layout"]["yaxis"][
            "title"
        ]
        for asked in ("", "?where=number=1")
    ]
    assert axes[0] == axes[1], "a selection calls the value what the whole study does"
    layout, points = found["figure"]["layout"], found["figure"]["data"][0]
    assert (layout["yaxis"]["type"], layout["yaxis"]["title"]["text"]) == (
        "log",
        "distance to the best (log)",
    )
    assert points["customdata"] == [0, 1, 2, 5, 6, 7, 8, 9]
    assert [None if y is None else round(y, 3) for y in points["y"]] == [
        0.9,
        0.8,
        0.7,
        0.4,
        0.3,
        0.2,
        0.1,
        None,
    ]


def test_nonsense_among_columns_is_an_empty_column(viewer: TestClient) -> None:
    for name in ("value:", "value:0", "value:\u00b2", "min:", ":", "nix", "metric:nix", "x" * 500):
        query = {"columns": f"number,{name}"}
        assert numbers_of(viewer.get("/studies/digits", params=query, headers=HTML).text)[-1] == 0, name
        assert viewer.get("/studies/digits/trials.csv", params=query).status_code == 200, name
