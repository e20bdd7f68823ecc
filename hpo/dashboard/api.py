"""The JSON API under /api/v1, from one table that the OpenAPI document is made from too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hpo.dashboard import actions, charts, pages, shapes
from hpo.dashboard.board import Board
from hpo.dashboard.guard import token_of, who
from hpo.dashboard.lists import list_studies
from hpo.dashboard.openapi import Endpoint, document
from hpo.dashboard.table import conditions_of, list_trials, wish_of
from hpo.errors import DatabaseError, NotFoundError, UserError
from hpo.report.drawing.theme import encode
from hpo.report.records.parameters import axes
from hpo.report.records.summary import comparison
from hpo.studies import answers
from hpo.studies.reading import read_evaluation, read_log
from hpo.studies.selection import FIELDS
from storage.database.records import StudyRow
from storage.history.attempts import machines_of
from storage.history.audit import Audit, audit
from storage.history.lists import STUDY_SORTS, progress
from storage.history.records import STATES, TrialRecord
from storage.history.trials import Part, metrics_of, read_trial

PREFIX = "/api/v1"
MAX_SIZE = 500  # rows of one page
MAX_LOG = 1_000_000  # bytes of one part of a log


class _Number(Convertor[int]):
    """A number in a path, of a trial say, small enough for any database; what is longer is no address."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


def routes() -> list[Route]:
    """Every route of the API."""
    made = [Route(PREFIX + item.path, _endpoint(item), methods=[item.method]) for item in ENDPOINTS]
    return [
        *made,
        Route(f"{PREFIX}/openapi.json", _openapi, methods=["GET"]),
        Route(f"{PREFIX}/{{rest:path}}", _nothing, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


def _endpoint(item: Endpoint) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        board: Board = request.app.state.board
        if board.hub.away is not None:
            raise DatabaseError(board.hub.away)
        board.asked = time.monotonic()
        if item.method == "POST":
            request.scope["hpo.body"] = _document(await request.body())
        found = await run_in_threadpool(item.view, board, request)
        encoded = encode(found if isinstance(found, dict) else answers.plain(found))
        return Response(encoded, media_type="application/json")

    return answer


def _document(body: bytes) -> dict[str, Any]:
    """Read by pydantic: unlike the standard library it refuses NaN, lone surrogates and endless nesting."""
    try:
        found = from_json(body or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise UserError(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError("the body must be a JSON object")
    return found


async def _nothing(request: Request) -> Response:
    raise NotFoundError(f"there is nothing at {request.scope['path'][:100]}; see {PREFIX}/openapi.json")


async def _openapi(_request: Request) -> Response:
    return Response(json.dumps(document(ENDPOINTS, PREFIX), indent=2), media_type="application/json")


def _studies(board: Board, request: Request) -> Any:
    query = request.query_params
    found = list_studies(
        board.database,
        answers.study,
        text=query.get("q", ""),
        state=query.get("state") or None,
        sort=query.get("sort") or "-created",
        page=pages.whole(query, "page", 1),
        size=_size(request, 50),
    )
    return shapes.Studies(list(found.studies), found.total, found.page, found.pages)


def _study(board: Board, request: Request) -> Any:
    name = board.row(request.path_params["study"]).name
    return board.database.read(answers.study_detail, name)


def _trials(board: Board, request: Request) -> Any:
    query = request.query_params
    wish = wish_of(query, pages.whole(query, "page", 1), _size(request, 100), "number")
    found = list_trials(board.live(request.path_params["study"]), wish, whole=True)
    return shapes.Trials(
        [answers.trial(record, found.now) for record in found.trials], found.total, found.page, found.pages
    )


def _trial(board: Board, request: Request) -> Any:
    return answers.trial_detail(board.database, *_found(board, request))


def _trial_charts(board: Board, request: Request) -> Any:
    row, record = _found(board, request, Part.REPORTS | Part.METRICS | Part.ATTEMPTS)
    best = board.database.read(progress, row.name).best_number
    evaluation = read_evaluation(board.database, row, record.number)
    there = board.database.read(machines_of, row)
    history = replace(board.sampled(row, best), machines=there)
    return {"charts": charts.draw_trial(history, record, evaluation)}


def _log(board: Board, request: Request) -> Any:
    row, record = _found(board, request, Part.ATTEMPTS)
    query = request.query_params
    number = pages.whole(query, "attempt", max(1, record.attempts))
    size = pages.whole(query, "size", pages.LOG_TAIL, least=16)
    if size > MAX_LOG:
        raise UserError(f"size must be at most {MAX_LOG}, got {size}")
    start = pages.whole(query, "start", 0, least=0) if query.get("start") else -size
    part = read_log(row, record.number, number, start, size)
    return shapes.Log(number, None) if part is None else shapes.Log(number, *vars(part).values())


def _found(board: Board, request: Request, with_: Part = Part.WHOLE) -> tuple[StudyRow, TrialRecord]:
    row, number = board.row(request.path_params["study"]), request.path_params["trial"]
    record = board.database.read(read_trial, row, number, with_=with_)
    if record is None:
        raise NotFoundError(f"{row.name} has no trial {number}")
    return row, record


def _chart(board: Board, request: Request) -> Any:
    query = request.query_params
    metric, log, x, y, over = (query.get(name, "")[:200] for name in ("metric", "log", "x", "y", "over"))
    options = charts.Options(metric, log, conditions_of(query), x, y, over)
    return charts.draw_study(board, request.path_params["study"], request.path_params["chart"], options)


def _metrics(board: Board, request: Request) -> Any:
    history, _ = board.history(request.path_params["study"])
    row = board.live(request.path_params["study"]).row
    varied = [axis.name for axis in axes(history) if not axis.single]
    return {"metrics": charts.metric_names(board, row, history), "parameters": varied}


def _curves(board: Board, request: Request) -> Any:
    """Every named metric of up to 50 trials."""
    raw = request.query_params.get("trials", "")
    numbers = [int(word) for word in raw.split(",") if word.isascii() and word.isdigit() and len(word) < 10]
    if not 1 <= len(numbers) <= 50:
        raise UserError("trials must name 1 to 50 trials by number, like trials=3,17")
    row = board.row(request.path_params["study"])
    found = board.database.read(metrics_of, row, numbers)
    return shapes.Curves(
        {
            str(number): {name: answers.points(series) for name, series in metrics.items()}
            for number, metrics in found.items()
        }
    )


def _audit(board: Board, request: Request) -> Any:
    row = board.row(request.path_params["study"])
    return board.database.read(audit, row)


def _events(board: Board, request: Request) -> Any:
    return shapes.Events(pages.events_of(board, request.path_params["study"]))


def _workers(board: Board, request: Request) -> Any:
    return shapes.Workers(pages.every_worker(board, request.query_params.get("study") or None))


def _launches(board: Board, _request: Request) -> Any:
    return shapes.Launches(pages.launched(board))


def _compare(board: Board, request: Request) -> Any:
    found = pages.compared(board, request.query_params.getlist("study"))
    return shapes.Comparison(list(comparison(tuple(history for history, _ in found))))


def _compare_chart(board: Board, request: Request) -> Any:
    names = request.query_params.getlist("study")
    found = pages.compared(board, names)
    if not found:
        raise UserError("name the studies to compare: ?study=A&study=B")
    drawn = charts.draw_comparison([history for history, _ in found], request.path_params["over"])
    return {"version": max(version for _, version in found), "again": None, **drawn}


def _act(board: Board, request: Request) -> Any:
    form = request.scope["hpo.body"]
    study, action = request.path_params["study"], request.path_params["action"]
    return shapes.Done(actions.act(board, study, action, form, who(request), token_of(request)))


def _size(request: Request, default: int) -> int:
    size = pages.whole(request.query_params, "size", default)
    if size > MAX_SIZE:
        raise UserError(f"size must be at most {MAX_SIZE}, got {size}")
    return size


_PAGING = (
    ("page", "integer", "1, 2, ..."),
    ("size", "integer", f"Rows of a page, at most {MAX_SIZE}."),
)
_WHERE = ("where", "string", "Conditions, as in `hpo trials --where`: lr<0.01 optimizer=adam best=10%.")
_STUDY = "/studies/{study}"
_TRIAL = _STUDY + "/trials/{trial:number}"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "/studies",
        "Studies with their progress, filtered, sorted and paged in SQL.",
        _studies,
        shapes.Studies,
        (
            ("q", "string", "Part of the name."),
            ("state", "string", "running, paused, stopping, stopped or finished."),
            ("sort", "string", f"One of {', '.join(STUDY_SORTS)}; '-' before it descends."),
            *_PAGING,
        ),
    ),
    Endpoint(_STUDY, "One study: state, budget, counts, best, spec.", _study, answers.StudyDetail),
    Endpoint(
        _STUDY + "/trials",
        "Trials, filtered, sorted and paged.",
        _trials,
        shapes.Trials,
        (
            _WHERE,
            ("state", "string", f"One of {', '.join(STATES)}."),
            ("sort", "string", f"{', '.join(FIELDS)}, a parameter or a metric; '-' before it descends."),
            *_PAGING,
        ),
    ),
    Endpoint(
        _TRIAL, "One trial: reports, metrics, attempts, files, evaluation.", _trial, answers.TrialDetail
    ),
    Endpoint(_TRIAL + "/charts", "Plotly figures of one trial.", _trial_charts, shapes.Charts),
    Endpoint(
        _TRIAL + "/log",
        "Some of what one attempt printed; null when it cannot be read from here.",
        _log,
        shapes.Log,
        (
            ("attempt", "integer", "Default: the last."),
            ("start", "integer", "Byte to begin at; default: `size` before the end."),
            ("size", "integer", f"Bytes, at most {MAX_LOG}; default {pages.LOG_TAIL}."),
        ),
    ),
    Endpoint(
        _STUDY + "/charts/{chart}",
        "A plotly figure of the study.",
        _chart,
        shapes.Chart,
        (
            ("metric", "string", "For `learning` and `importances`: another metric than what is reported."),
            ("log", "string", "1: logarithmic value axis; distance: of the distance to the best."),
            ("x", "string", "A parameter's name, for `contour` and `slice-1`; default: the most important."),
            ("y", "string", "The other one of `contour`."),
            ("over", "string", "seconds: `learning` over the time worked at each trial, at an even pace."),
            _WHERE,
        ),
    ),
    Endpoint(
        _STUDY + "/metrics", "Names of the metrics trials log, and of what varies.", _metrics, shapes.Metrics
    ),
    Endpoint(
        _STUDY + "/curves",
        "Every named metric per step, of up to 50 trials.",
        _curves,
        shapes.Curves,
        (("trials", "string", "Numbers, like 3,17."),),
    ),
    Endpoint(_STUDY + "/audit", "Whether the invariants held.", _audit, Audit),
    Endpoint(
        _STUDY + "/events",
        f"Who did what, oldest first: the newest {pages.MAX_EVENTS}. Of a deleted study its end.",
        _events,
        shapes.Events,
    ),
    Endpoint(
        "/workers",
        "Every worker, or those of one study.",
        _workers,
        shapes.Workers,
        (("study", "string", "Name."),),
    ),
    Endpoint("/launches", "Launches of workers; those nobody stopped first.", _launches, shapes.Launches),
    Endpoint(
        "/compare",
        "The best of several studies.",
        _compare,
        shapes.Comparison,
        (("study", "array", "Names; repeat the parameter."),),
    ),
    Endpoint(
        "/compare/{over}",
        "Best so far of several studies over trials, epochs or seconds, or their values.",
        _compare_chart,
        shapes.Chart,
        (("study", "array", "Names; repeat the parameter."),),
    ),
    Endpoint(
        _STUDY + "/actions/{action}",
        f"Act: {', '.join(actions.ACTIONS)}. Needs the token, not the view token.",
        _act,
        shapes.Done,
        method="POST",
    ),
)
