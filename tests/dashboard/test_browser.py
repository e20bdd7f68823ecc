"""Every page in a real Chromium, on a search that goes on in another process; a quiet console throughout."""

from __future__ import annotations

import csv
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from hpo.dashboard.access import Access
from hpo.dashboard.app import make_board
from hpo.dashboard.server import Server
from hpo.settings import Settings
from hpo.studies.creation import create
from storage.database.engine import Database
from storage.database.migrate import open_database
from tests.dashboard.conftest import TOKEN, VIEW_TOKEN
from tests.dashboard.seeded import HOSTILE, make_spec
from tests.support.browser import DESK, PHONE, Tab
from tests.support.command import COMMAND, hpo_environment
from tests.support.proxy import TcpProxy
from tests.support.screen import Screen
from tests.support.shared import SPACE, Party
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser

PAGES = ("/", "/studies/digits", "/studies/digits/trials/9", "/workers?all=1", "/compare?study=digits")
expect.set_options(timeout=120_000)


@contextmanager
def serving(database: Database) -> Iterator[str]:
    """The dashboard on a port of this machine; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = Server(make_board(database, Access(TOKEN, VIEW_TOKEN, port), lease=300.0))
    thread = threading.Thread(target=server.run, args=[[listening]], daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the dashboard listens")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(120)
        listening.close()
        assert not thread.is_alive(), "the server ends although pages are open"


def until(page: Page, expression: str) -> None:
    """Wait until JavaScript is true. Not `wait_for_function`: it needs `eval`, which the pages forbid."""
    wait_until(lambda: page.evaluate(expression), what=expression)


class Opened(Tab):
    """A signed-in tab."""

    def __init__(self, browser: Browser, base: str, token: str = TOKEN, **options: Any) -> None:
        super().__init__(browser, **options)
        self.base = base
        self.page.goto(f"{base}/?token={token}")

    def go(self, path: str) -> Page:
        self.page.goto(self.base + path)
        return self.page

    def draw_everything(self) -> None:
        """Bring every chart into view, one after another, and wait until it is drawn."""
        until(self.page, "[...document.querySelectorAll('[data-charts]')].every(box => box.dataset.drawn)")
        for plot in self.page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            expect(plot).to_have_attribute("data-drawn", re.compile("."))


@pytest.fixture
def base(database: Database) -> Iterator[str]:
    with serving(database) as address:
        yield address


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk-light", "phone-dark"]
)
def test_every_page_is_quiet_and_fits(
    size: tuple[int, int], scheme: str, browser: Browser, base: str
) -> None:
    """No complaint, nothing from elsewhere, no sideways scrolling, every chart drawn, no ticks that touch,
    nothing that axe finds in the way of people who see little or use no mouse.
    """
    opened = Opened(browser, base, size=size, color_scheme=scheme)
    for path in PAGES:
        page = opened.go(path)
        expect(page.locator("#pulse")).to_have_text("live")
        opened.draw_everything()
        assert opened.width() <= size[0], path
        assert opened.overlapping_ticks() == [], path
        assert opened.texts_outside() == [], path
        assert opened.hindrances() == [], path
        assert opened.complaints == [], path
        page.emulate_media(media="print")  # every chart whole, and nothing to press
        shapes = page.locator(".plot:visible").evaluate_all("all => all.map(it => it.clientHeight)")
        assert all(height > 60 for height in shapes), (path, shapes)
        assert page.locator("button:visible, input:visible, select:visible").count() == 0, path
        page.emulate_media(media="screen")
    assert [url for url in opened.requests if not url.startswith(base)] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(243, 245, 248)" if scheme == "light" else "rgb(15, 19, 24)")


def test_a_long_name_on_a_phone_leaves_its_number_whole(browser: Browser, base: str) -> None:
    page = Opened(browser, base, size=PHONE).go("/studies/digits")
    lines = page.locator("#bestparams .facts tr").evaluate_all(
        """rows => rows.map(({ children: [name, value] }) => {
          [name.textContent, value.textContent] = ['a_parameter_with_a_long_name', '0.00023451'];
          const text = document.createRange();
          text.selectNodeContents(value);
          return text.getClientRects().length;
        })"""
    )
    assert lines
    assert set(lines) == {1}
    many = page.locator("#bestparams .facts tbody").evaluate(
        """body => {
          body.innerHTML = '<tr><th scope="row">p10</th><td>0.003919</td></tr>'.repeat(20);
          return [...body.querySelectorAll('th, td')].map((it) => {
            const text = document.createRange();
            text.selectNodeContents(it);
            return text.getClientRects().length;
          });
        }"""
    )
    assert set(many) == {1}, "nor do many numbers squeeze their names"


# Tells the page, as a busy browser may, at once that a chart went out of sight and that it came back.
OBSERVER = """
const Usual = window.IntersectionObserver;
window.IntersectionObserver = class extends Usual {
  constructor(tell, options) {
    super(tell, options);
    window.comesAndGoes = (target) => tell([[false, 5000], [true, 100]].map(([isIntersecting, top]) =>
      ({ target, isIntersecting, boundingClientRect: { top, bottom: top + 100 } })));
  }
};
"""


def test_a_page_follows_the_search_without_a_reload(browser: Browser, base: str, sqlite_url: str) -> None:
    """A value changes in the database; cards, table and chart follow; the page was never loaded again. So do
    they where it changes after the page was made and its charts drawn, and before the page listens.
    """
    opened = Opened(browser, base)
    held: list[Route] = []

    def hold_the_stream(route: Route) -> None:
        if "event-stream" in route.request.headers.get("accept", "") and not held:
            held.append(route)
        else:
            route.continue_()

    opened.page.route("**/studies/digits", hold_the_stream)
    opened.page.add_init_script(OBSERVER)
    page = opened.go("/studies/digits")
    expect(page.locator("#cards .card.main strong")).to_have_text("0.9")
    until(page, "document.getElementById('history-1').dataset.drawn > 0")  # 0: in outline
    drawn = page.locator("#history-1").get_attribute("data-drawn")
    page.evaluate("window.neverReloaded = true")
    page.evaluate("window.comesAndGoes(document.getElementById('history-1'))")
    wait_until(lambda: page.evaluate("true") and held, what="the page begins to listen")
    party = Party(sqlite_url, _row(sqlite_url))
    for number, value in ((11, 0.96), (12, 0.97)):
        party.finish_one(value)
        if number == 11:
            held[0].continue_()
        expect(page.locator("#cards .card.main strong")).to_have_text(str(value))
        expect(page.locator("#trials tbody th").first).to_contain_text(f"{number} ★")
        expect(page.locator("#history-1")).not_to_have_attribute("data-drawn", str(drawn))
        drawn = page.locator("#history-1").get_attribute("data-drawn")
    assert page.evaluate("window.neverReloaded")
    hands_are_not_disturbed(page, party)
    party.close()
    assert opened.complaints == []


def test_a_page_whose_connection_broke_asks_for_its_charts_again(browser: Browser, base: str) -> None:
    """Also where its tables had followed before, and where the server answered with an error first."""
    opened = Opened(browser, base)
    told = 'retry: 10\n\nevent: parts\ndata: {"took": 0, "parts": []}\n\n'  # and there it breaks
    answers = [{"body": told}, {"body": told}, {"status": 503}, {"body": told}]
    asked = [0]  # how often for the chart, by connection

    def answer(route: Route) -> None:
        if "event-stream" not in route.request.headers.get("accept", ""):
            route.continue_()
        elif answers:
            asked.append(0)
            route.fulfill(content_type="text/event-stream", **answers.pop(0))  # type: ignore[arg-type]

    def count(request: Request) -> None:
        asked[-1] += request.url.endswith("/charts/history-1")

    opened.page.route("**/studies/digits", answer)
    opened.page.on("request", count)
    page = opened.go("/studies/digits")
    wait_until(lambda: page.evaluate("true") and not answers and asked[-1], what="it asks again")


def hands_are_not_disturbed(page: Page, party: Party) -> None:
    """A trial ends while somebody ticks another one by the keyboard, and while a box is being drawn."""
    page.get_by_label("Tick trial 6", exact=True).focus()
    party.finish_one(0.98)
    expect(page.locator("#trials tbody th").first).to_contain_text("13 ★")
    page.keyboard.press("Space")
    expect(page.get_by_label("Tick trial 6", exact=True)).to_be_checked()
    page.locator("#slice-1").scroll_into_view_if_needed()
    until(page, "document.getElementById('slice-1').dataset.drawn")
    version = page.locator("#slice-1").get_attribute("data-drawn")
    spots = places(page, "slice-1", (0.25, 0.99), (0.75, 0.1))
    page.mouse.move(*spots[0])
    page.mouse.down()
    page.mouse.move(*spots[1], steps=4)
    party.finish_one(0.99)
    expect(page.locator("#cards .card.main strong")).to_have_text("0.99")
    page.mouse.up()
    expect(page).to_have_url(re.compile("x%3E%3D0.2.*x%3C%3D0.7.*score%3E%3D0.1.*score%3C%3D0.9"))
    expect(page.locator("#slice-1")).not_to_have_attribute("data-drawn", str(version))


def _row(url: str) -> Any:
    from hpo.studies.reading import get_study

    database = open_database(url)
    try:
        return get_study(database, "digits")
    finally:
        database.close()


def test_buttons_act_and_the_page_shows_it(browser: Browser, base: str) -> None:
    """Every action by its button or form, with JavaScript; the state follows by itself."""
    opened = Opened(browser, base)
    page = opened.go("/studies/digits")
    opened.agrees = True
    state = page.locator("#cards .badge").first
    expect(page.locator("#pulse")).to_have_text("live")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("paused")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_text("running")
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.get_by_text("Steer, and add a worker").click()
    page.get_by_label("More trials").fill("7")
    page.get_by_role("button", name="Extend").click()
    expect(page.locator("#toast")).to_have_text("digits is running with 27 trials")
    page.get_by_label("Try this point next").fill("x=0.123")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator("#toast")).to_contain_text("will try")
    page.get_by_label("Try this point next").fill("x=99")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator("#toast.wrong")).to_contain_text("x")
    opened.agrees = False
    page.get_by_role("button", name="Retry failed").click()
    opened.agrees = True
    page.get_by_role("button", name="Retry failed").click()
    expect(page.locator("#toast")).to_have_text("1 failed trial waits again")
    expect(page.get_by_role("button", name="Retry failed")).to_be_hidden()
    opened.go("/studies/digits/trials/3")
    page.get_by_role("button", name="Retry this trial").click()
    expect(page.locator("#toast.wrong")).to_contain_text("another trial repeats it already")
    opened.go("/studies/digits/trials/9")
    expect(page.get_by_role("button", name="Retry this trial")).to_have_count(0)
    opened.go("/studies/digits")
    page.get_by_role("button", name="Stop").click()
    expect(state).to_have_text("stopping")
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_have_text("stopped")
    assert [text for text in opened.complaints if "400" not in text] == [
        "dialog Run the failed trial again? Each becomes a new trial."
    ]


def test_forms_work_without_javascript(browser: Browser, base: str) -> None:
    opened = Opened(browser, base, java_script_enabled=False)
    page = opened.go("/studies/digits")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("main")).to_contain_text("digits is paused")
    page.get_by_role("link", name="Back to the study").click()
    expect(page.locator("#cards .badge").first).to_have_text("paused")


def test_slices_appear_as_soon_as_trials_tell_which_parameters_there_are(
    browser: Browser, base: str, database: Database, sqlite_url: str
) -> None:
    """A study without a `space`, opened before its first trial; new parameters join, drawn ones stay."""
    row = create(database, make_spec("free", space={}), Settings(storage=sqlite_url, artifacts="memory://x"))
    opened = Opened(browser, base)
    page = opened.go("/studies/free")
    expect(page.locator("#pulse")).to_have_text("live")
    expect(page.locator("#best-seconds")).to_have_count(1)
    expect(page.locator("#slices h2")).to_have_count(0)
    party = Party(sqlite_url, row)
    for number in range(6):
        party.start(party.claim(), x=number / 10)
        party.writer.add_params({"y": 1 - number / 10}, {"y": SPACE["x"]})
        party.complete(number / 10)
    expect(page.locator("#slices section .plot")).to_have_count(2)
    for plot in page.locator("#slices .plot").all():
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".scatterlayer .trace").first).to_be_attached()
    titles = page.locator("#slices .chart h3").all_inner_texts()
    assert sorted(titles) == ["x", "y"]
    assert opened.complaints == []
    party.close()


def test_who_only_looks_sees_no_buttons(browser: Browser, base: str) -> None:
    page = Opened(browser, base, VIEW_TOKEN).go("/studies/digits")
    expect(page.locator(".role")).to_have_text("looks only")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    expect(page.locator("#trials tbody tr")).to_have_count(11)


def test_on_paper_stands_every_chart_also_one_that_nobody_scrolled_to(browser: Browser, base: str) -> None:
    page = Opened(browser, base, VIEW_TOKEN).go("/studies/digits")
    until(page, "document.getElementById('history-1').dataset.drawn")
    drawn = "it.querySelector('.main-svg, .nothing')"
    missing = f"[...document.querySelectorAll('.plot')].filter(it => !{drawn}).length"
    assert page.evaluate(missing) > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(missing) == 0


def test_on_paper_no_heading_stands_over_nothing(browser: Browser, base: str) -> None:
    page = Opened(browser, base, VIEW_TOKEN).go("/studies/digits?where=state=failed")
    until(page, "document.getElementById('history-1').dataset.drawn")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    painted = "it.querySelector('.main-svg, .nothing')"
    until(page, f"[...document.querySelectorAll('.plot')].every(it => {painted})")
    page.emulate_media(media="print")
    lines = [text.split("\n") for text in page.locator("section:visible").all_inner_texts()]
    assert [one[0] for one in lines if len(one) == 1] == []
    assert any(one[0] == "Trials" for one in lines)


def test_a_click_on_a_point_leads_to_its_trial(browser: Browser, base: str) -> None:
    opened = Opened(browser, base)
    page = opened.go("/studies/digits")
    opened.draw_everything()  # so that nothing moves under the pointer
    until(page, "document.getElementById('history-1').dataset.drawn > 0")  # 0: in outline, drawn once more
    page.locator("#history-1").scroll_into_view_if_needed()
    spot = page.evaluate(
        """() => { const box = document.querySelector('#history-1 .scatterlayer .trace .points path')
                     .getBoundingClientRect();
                   return [box.left + box.width / 2, box.top + box.height / 2]; }"""
    )
    page.mouse.move(*spot)
    expect(page.locator("#history-1 .hoverlayer")).to_contain_text("0 at 0")
    page.mouse.click(*spot)
    expect(page).to_have_url(re.compile("/studies/digits/trials/0$"))


def test_one_selection_for_the_whole_page(browser: Browser, base: str) -> None:
    """A box in a chart becomes a filter in the address; table and charts follow, nothing is loaded again nor
    does the page jump; a sort keeps it; what is wrong is said; going back brings back what was; a trial under
    the pointer is shown in the charts, and with its parameters. Opened elsewhere the address shows the same.
    """
    opened = Opened(browser, base)
    page = opened.go("/studies/digits?columns=number,x,value")
    opened.draw_everything()  # so that nothing moves under the pointer
    page.evaluate("window.neverReloaded = true")
    page.locator("#slice-1").scroll_into_view_if_needed()
    drag(page, "slice-1", (0.25, 0.99), (0.75, 0.1))
    rows = page.locator("#trials tbody tr")
    expect(rows).to_have_count(4)
    expect(page.locator("#told")).to_contain_text("4 trials meet this")
    until(page, "document.getElementById('slice-1').data?.flatMap(trace => trace.x).length === 4")
    assert page.locator("#selection input[name=where]").input_value().startswith("x>=0.2")
    place = page.evaluate("scrollY")
    assert place > 0
    page.locator("#trials thead a", has_text="Trial").evaluate("link => link.click()")
    expect(page.locator("#trials [aria-sort=ascending]")).to_have_text("Trial")
    expect(rows.first).to_contain_text("4")
    assert page.evaluate("scrollY") == place
    shared = page.url
    page.locator("#slice-1").scroll_into_view_if_needed()
    page.mouse.move(1, 1)  # where it stands no chart comes under it when the page grows
    page.locator("#trials tbody tr[data-trial='6']").dispatch_event("mouseover")
    expect(page.locator("#lit")).to_contain_text("trial 6")
    expect(page.locator("#slice-1 .hoverlayer")).to_contain_text("trial 6")
    box = page.locator("#selection input[name=where]")
    box.fill("nix=1")
    box.press("Enter")
    expect(page.locator("#told [role=alert]")).to_contain_text("no trial of this study has 'nix'")
    page.go_back()
    expect(rows.first).to_contain_text("4")
    page.get_by_role("link", name="clear").click()
    expect(rows).to_have_count(11)
    page.evaluate("scrollTo(0, 0)")
    for numbers in ("8,9", "9", "8,9"):  # the axis of a single value has a range, which does not outlive it
        box.fill(f"number={numbers}")
        box.press("Enter")
        drawn = "document.getElementById('history-1').data[0].customdata.join()"
        until(page, f"{drawn} === '{numbers}'")
    low, high = page.evaluate("document.getElementById('history-1')._fullLayout.yaxis.range")
    assert 0.7 < low < 0.8 < 0.9 < high < 1.0
    page.get_by_role("link", name="clear").click()
    expect(rows).to_have_count(11)
    for number in (3, 9):
        page.get_by_label(f"Tick trial {number}", exact=True).check()
    page.get_by_role("button", name="Compare ticked").click()
    expect(rows).to_have_count(2)
    expect(page.locator("#beside tbody tr")).to_have_text(
        [re.compile("state"), re.compile("ccuracy"), "x0.30.9"]
    )
    curves = "document.getElementById('learning').data?.map(trace => trace.name).join()"
    page.locator("#learning").scroll_into_view_if_needed()
    until(page, f"{curves} === 'trial 3, failed,best: trial 9'")
    page.get_by_text("Logs beside each other").click()
    expect(page.locator("#beside .log").nth(1)).to_contain_text(HOSTILE)
    assert page.evaluate("window.neverReloaded")
    assert [text for text in opened.complaints if "400" not in text] == []
    other = Opened(browser, base, VIEW_TOKEN).go(shared.removeprefix(base))
    expect(other.locator("#trials tbody tr")).to_have_count(4)
    expect(other.locator("#trials thead th")).to_have_text(["Trial", "x", "Accuracy"])


def drag(page: Page, plot: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Box a stretch of a chart, in its axes' own units."""
    spots = places(page, plot, start, end)
    page.mouse.move(*spots[0])
    page.mouse.down()
    page.mouse.move(*spots[1], steps=4)
    page.mouse.up()


def places(page: Page, plot: str, *spots: tuple[float, float]) -> Any:
    """Where on the screen these are, in the axes' own units."""
    return page.evaluate(
        """([id, ...spots]) => {
             const plot = document.getElementById(id), { xaxis, yaxis } = plot._fullLayout;
             const { left, top } = plot.getBoundingClientRect();
             const right = left + xaxis._offset, down = top + yaxis._offset;
             return spots.map(([x, y]) => [right + xaxis.l2p(x), down + yaxis.l2p(y)]);
           }""",
        [plot, *spots],
    )


def test_the_metric_and_the_axis_can_be_picked(browser: Browser, base: str) -> None:
    opened = Opened(browser, base)
    page = opened.go("/studies/digits")
    section = page.locator("#learning-curves")
    section.scroll_into_view_if_needed()
    section.locator("[data-pick=metric]").focus()
    expect(section.locator("[data-pick=metric] option")).to_have_count(3)
    section.locator("[data-pick=metric]").select_option("train_loss")
    expect(page.locator("#learning .ytitle")).to_have_text("train_loss")
    section.locator("[data-log]").select_option("log")
    until(page, "document.getElementById('learning').layout?.yaxis?.type === 'log'")
    curve = "document.getElementById('learning').data.find(trace => trace.name.startsWith('best')).y"
    assert page.evaluate(curve) == [0.09, 0.08, 0.07]
    section.locator("[data-smooth]").fill("0.5")
    until(page, f"Math.abs({curve}[2] - (0.09 / 8 + 0.08 / 4 + 0.07 / 2) / (7 / 8)) < 1e-9")
    section.locator("[data-over]").check()
    until(
        page, "document.getElementById('learning').data.map(it => it.legendgroup).join() === ',pruned,pruned'"
    )
    files = {kind: saved(page, "learning", kind) for kind in ("PNG", "SVG", "CSV")}
    assert files["PNG"].startswith(b"\x89PNG")
    assert b"Learning curves" in files["SVG"]
    table = list(csv.reader(files["CSV"].decode().splitlines()))
    assert table[0] == ["series", "Epoch", "train_loss", "trial"]
    assert ["best: trial 9", "2", "0.08", "9"] in table
    assert opened.complaints == []


def saved(page: Page, plot: str, kind: str) -> bytes:
    """What a chart's menu saves."""
    page.locator(f"#box-{plot} .save summary").click()
    with page.expect_download() as download:
        page.locator(f"#box-{plot} .save").get_by_text(kind).click()
    return Path(download.value.path()).read_bytes()


def test_what_is_picked_while_the_chart_is_still_asked_for_is_drawn(browser: Browser, base: str) -> None:
    opened = Opened(browser, base)
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    opened.page.route("**/charts/learning*", hold_the_first)
    page = opened.go("/studies/digits")
    section = page.locator("#learning-curves")
    section.scroll_into_view_if_needed()
    section.locator("[data-pick=metric]").focus()
    expect(section.locator("[data-pick=metric] option")).to_have_count(3)
    wait_until(lambda: page.evaluate("true") and held, what="the chart of the objective is under way")
    section.locator("[data-pick=metric]").select_option("train_loss")
    held[0].continue_()
    expect(page.locator("#learning .ytitle")).to_have_text("train_loss")


def test_hostile_text_stays_text(browser: Browser, base: str) -> None:
    """Errors and logs with markup in them are shown literally; so is a class, drawn on every trial's page. A
    picture that was kept is shown there; what is only called one is not. A table is shown when it is opened.
    """
    opened = Opened(browser, base)
    opened.go("/studies/digits/trials/9")
    opened.draw_everything()
    expect(opened.page.locator("#confusion")).to_contain_text(HOSTILE[:12])
    opened.page.locator(".pictures").scroll_into_view_if_needed()  # of two files called so one is a picture
    until(opened.page, "[...document.querySelectorAll('.pictures img')].every(one => one.complete)")
    assert opened.page.locator(".pictures img").evaluate_all("all => all.map(it => it.naturalWidth)") == [
        1,
        0,
    ]
    for name in ("wrong.csv", "steps.jsonl"):
        opened.page.locator(f"details[data-table$='{name}'] summary").click()
    cells = opened.page.locator("details[data-table] tr")
    expect(cells).to_have_text(["ab", "1", "[2]c", "digitseen", f"8{HOSTILE}, 9"])
    opened.go("/studies/digits/trials/3")
    expect(opened.page.locator("#attempts")).to_contain_text(HOSTILE)
    opened.go("/studies/digits?state=failed")
    expect(opened.page.locator("#trials")).to_contain_text(HOSTILE)
    assert opened.complaints == []


def test_the_database_goes_away_and_comes_back(browser: Browser, pg_url: str, pg_proxy: TcpProxy) -> None:
    """An open page says so and keeps what it had; a new one says so; both recover by themselves."""
    database = open_database(pg_proxy.url(pg_url))
    create(database, make_spec(), Settings(storage=pg_url, artifacts="memory://x"))
    with serving(database) as address:
        opened = Opened(browser, address)
        page = opened.go("/studies/digits")
        expect(page.locator("#pulse")).to_have_text("live")
        pg_proxy.cut("reset")
        expect(page.locator("#banner")).to_contain_text("cannot be reached")
        expect(page.locator("h1")).to_have_text("digits")
        other = opened.context.new_page()
        answer = other.goto(f"{address}/studies/digits")
        assert answer is not None
        assert answer.status == 503
        expect(other.locator("h1")).to_have_text("The database cannot be reached")
        text = other.inner_text("body")
        assert "Traceback" not in text
        assert "secret" not in text
        pg_proxy.heal(forget=True)
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#pulse")).to_have_text("live")
        expect(other.locator("h1")).to_have_text("digits")
    database.close()


def test_a_real_search_is_watched_beside_the_run(browser: Browser, tmp_path: Path) -> None:
    """`hpo run --dashboard` says in its terminal where it is; values move while it trains; it ends with the
    run, but where somebody sits at the terminal only with Ctrl-C, also of a study that has ended. The link
    opened again elsewhere lets nobody in, and a new one appears.
    """
    study = tmp_path / "quick.yaml"
    study.write_text(STUDY)
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    screen = Screen(200, 30)

    def links() -> list[str]:
        return [found for line in screen.lines for found in re.findall(r"http://\S+code=\S+", line)]

    command = [*COMMAND, "run", study, "--runners", "1", "--no-report", "--dashboard"]
    environment = hpo_environment({"TERM": "xterm"})
    ends = {"stdin": subprocess.DEVNULL, "stdout": screen.slave, "stderr": screen.slave}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **ends) as run:
        try:
            wait_until(links, what="the link")
            context = browser.new_context()
            page = context.new_page()
            page.goto(links()[0])
            expect(page.locator("h1")).to_have_text("quick")
            expect(page.locator("#pulse")).to_have_text("live")
            elsewhere = browser.new_page()
            elsewhere.goto(links()[0])
            expect(elsewhere.locator("[role=alert]")).to_contain_text("has been used")
            wait_until(lambda: len(links()) == 2, what="a new link")
            page.evaluate("window.neverReloaded = true")
            for number in range(4):
                expect(page.locator("#trials tbody tr")).to_have_count(number + 1)
                expect(page.locator("#trials tbody tr").first).to_contain_text("running")
                (tmp_path / f"go-{number}").touch()
            assert page.evaluate("window.neverReloaded")
            assert run.wait() == 0
            assert len(links()) == 2, "both links stay above where the view was"
        finally:
            run.kill()
    expect(page.locator("#pulse")).not_to_have_text("live")
    ends["stdin"] = screen.slave
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **ends) as run:
        try:
            wait_until(lambda: len(links()) == 3, what="a link again")
            elsewhere.goto(links()[2])
            expect(elsewhere.locator("h1")).to_have_text("quick")
            wait_until(lambda: any("Ctrl-C ends it" in line for line in screen.lines), what="it stays")
            run.send_signal(signal.SIGINT)
            assert run.wait() == 0
        finally:
            run.kill()
    lines = screen.close()
    assert not [line for line in lines if "trials" in line and "complete" in line], "the view is gone"
    elsewhere.close()
    context.close()


STUDY = """
study: quick
objective: objective.py:objective
direction: maximize
sampler: {name: random, seed: 0}
budget: {trials: 4}
space: {x: {type: float, low: 0, high: 1}}
"""
OBJECTIVE = '''
import time
from pathlib import Path


def objective(trial):
    """Waits at each trial until somebody has seen it run."""
    trial.report(trial.params["x"], 1)
    until = time.monotonic() + 600
    while not (Path(__file__).parent / f"go-{trial.number}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return trial.params["x"]
'''
