"""The JSON API under /api/v1, from one table that the OpenAPI document is made from too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hpo.dashboard import actions, charts, pages, shapes
from hpo.dashboard.board import Board
from hpo.errors import DatabaseError, NotFoundError, UserError
from hpo.report.drawing.theme import encode
from hpo.report.records.summary import comparison
from hpo.search.history import STATES
from hpo.studies import listing, overview, tables
from hpo.studies.attempts import artifacts_of, attempts_of, read_log, workers_json
from hpo.studies.audit import audit, audit_json
from hpo.studies.reading import read_evaluation
from hpo.studies.trials import metrics_of, read_trial

PREFIX = "/api/v1"
MAX_SIZE = 500  # rows of one page


@dataclass(frozen=True)
class Endpoint:
    """One operation: where, what it does, what it takes and gives."""

    path: str  # as Starlette writes it
    summary: str
    view: Callable[[Board, Request], Any]
    shape: type[BaseModel]
    query: tuple[tuple[str, str, str], ...] = ()  # (name, JSON type, description)
    method: str = "GET"


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
        return Response(encode(found), media_type="application/json")

    return answer


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        raise UserError("the body is not JSON") from None
    if not isinstance(found, dict):
        raise UserError("the body must be a JSON object")
    return found


async def _nothing(request: Request) -> Response:
    raise NotFoundError(f"there is nothing at {request.scope['path'][:100]}; see {PREFIX}/openapi.json")


async def _openapi(_request: Request) -> Response:
    from hpo.dashboard.openapi import document

    return Response(json.dumps(document(), indent=2), media_type="application/json")


def _studies(board: Board, request: Request) -> Any:
    query = request.query_params
    found = overview.list_page(
        board.database,
        text=query.get("q", ""),
        state=query.get("state") or None,
        sort=query.get("sort") or "-created",
        page=pages.whole(query, "page", 1),
        size=_size(request, 50),
    )
    cards = [_card(card) for card in found.cards]
    return {"studies": cards, "total": found.total, "page": found.page, "pages": found.pages}


def _card(card: overview.Card) -> dict[str, Any]:
    row, counts = card.row, card.progress.counts
    return {
        "name": row.name,
        "state": row.state.value,
        "ended_why": row.ended_why,
        "directions": list(row.spec["directions"]),
        "sampler": row.spec["sampler"]["name"],
        "pruner": row.spec["pruner"]["name"],
        "budget": {
            "trials": row.budget_trials,
            "seconds": row.budget_seconds,
            "target": row.budget_target,
        },
        "trials": tables.counts_json(counts),
        "best": None
        if card.progress.best_number is None
        else {"number": card.progress.best_number, "value": card.progress.best_value},
        "best_so_far": [list(point) for point in card.curve],
        "seconds": round(card.progress.seconds, 3),
        "seconds_left": card.seconds_left,
        "created": tables.iso(pages.moment(row.created_at)),
    }


def _study(board: Board, request: Request) -> Any:
    name = request.path_params["study"]
    card = overview.card(board.database, name)
    best = card.progress.best_number
    trial = None if best is None else read_trial(board.database, card.row, best)
    return {
        **_card(card),
        "spec": card.row.spec,
        "digest": card.row.digest,
        "artifacts": card.row.artifacts,
        "best_params": None if trial is None else dict(trial.params),
        "test": (card.row.test_evaluation or {}).get("evaluation"),
    }


def _trials(board: Board, request: Request) -> Any:
    query = request.query_params
    found = listing.list_trials(
        board.database,
        board.row(request.path_params["study"]),
        sort=query.get("sort") or "number",
        state=query.get("state") or None,
        page=pages.whole(query, "page", 1),
        size=_size(request, 100),
    )
    lines = [
        {
            "number": line.number,
            "state": line.state,
            "values": tables.finite(line.values),
            "params": dict(line.params),
            "last_step": line.last_step,
            "last_report": tables.finite(line.last),
            "reports": line.epochs,
            "seconds": line.seconds,
            "attempts": line.attempts,
            "worker": line.worker,
            "device": line.device,
            "error": line.error,
        }
        for line in found.lines
    ]
    return {"trials": lines, "total": found.total, "page": found.page, "pages": found.pages}


def _trial(board: Board, request: Request) -> Any:
    row, record = _found(board, request)
    return {
        **tables.trial_json(record),
        "attempts_list": attempts_of(board.database, row, record.number),
        "artifacts": [
            {key: item[key] for key in ("name", "bytes", "sha256")}
            for item in artifacts_of(board.database, row, record.number)
        ],
        "evaluation": read_evaluation(board.database, row, record.number),
    }


def _trial_charts(board: Board, request: Request) -> Any:
    row, record = _found(board, request)
    history, _ = board.history(row.name)
    evaluation = read_evaluation(board.database, row, record.number)
    return {"charts": charts.draw_trial(history, record, evaluation)}


def _log(board: Board, request: Request) -> Any:
    row, record = _found(board, request)
    number = pages.whole(request.query_params, "attempt", max(1, record.attempts))
    return {"attempt": number, "log": read_log(board.database, row, record.number, number)}


def _found(board: Board, request: Request) -> Any:
    row = board.row(request.path_params["study"])
    record = read_trial(board.database, row, request.path_params["trial"])
    if record is None:
        raise NotFoundError(f"{row.name} has no trial {request.path_params['trial']}")
    return row, record


def _chart(board: Board, request: Request) -> Any:
    query = request.query_params
    options = charts.Options(query.get("metric", "")[:200], query.get("log") == "1")
    return charts.draw_study(board, request.path_params["study"], request.path_params["chart"], options)


def _metrics(board: Board, request: Request) -> Any:
    history, _ = board.history(request.path_params["study"])
    row = board.live(request.path_params["study"]).row
    return {"metrics": charts.metric_names(board, row, history)}


def _curves(board: Board, request: Request) -> Any:
    """Every named metric of up to 50 trials."""
    raw = request.query_params.get("trials", "")
    numbers = [int(word) for word in raw.split(",") if word.isascii() and word.isdigit() and len(word) < 10]
    if not 1 <= len(numbers) <= 50:
        raise UserError("trials must name 1 to 50 trials by number, like trials=3,17")
    found = metrics_of(board.database, board.row(request.path_params["study"]), numbers)
    return {
        "curves": {
            str(number): {
                name: [{"step": step, "value": tables.finite(value)} for step, value in series.items()]
                for name, series in metrics.items()
            }
            for number, metrics in found.items()
        }
    }


def _audit(board: Board, request: Request) -> Any:
    return audit_json(audit(board.database, board.row(request.path_params["study"])))


def _workers(board: Board, request: Request) -> Any:
    name = request.query_params.get("study")
    return {"workers": workers_json(board.database, board.row(name) if name else None)}


def _launches(board: Board, _request: Request) -> Any:
    plain = ("id", "study", "launcher", "host", "workers")
    return {
        "launches": [
            {
                **{name: getattr(row, name) for name in plain},
                "created": tables.iso(pages.moment(row.created_at)),
                "stopped": None if row.stopped_at is None else tables.iso(pages.moment(row.stopped_at)),
            }
            for row in pages.launched(board)
        ]
    }


def _compare(board: Board, request: Request) -> Any:
    histories = pages.compared(board, request.query_params.getlist("study"))
    rows = [
        {
            "name": row.name,
            "state": row.state,
            "sampler": row.sampler,
            "pruner": row.pruner,
            "trials": row.trials,
            "complete": row.complete,
            "best": row.best,
            "best_number": row.best_number,
            "found_after_seconds": row.found_after_seconds,
            "found_after_epochs": row.found_after_epochs,
            "epochs": row.epochs,
            "seconds": row.seconds,
            "test": None if row.test is None else {"metric": row.test[0], "value": row.test[1]},
        }
        for row in comparison(tuple(histories))
    ]
    return {"studies": rows}


def _compare_chart(board: Board, request: Request) -> Any:
    names = request.query_params.getlist("study")
    histories = pages.compared(board, names)
    if not histories:
        raise UserError("name the studies to compare: ?study=A&study=B")
    version = sum(board.live(history.name).version for history in histories)
    return {"version": version, **charts.draw_comparison(histories, request.path_params["over"])}


def _act(board: Board, request: Request) -> Any:
    form = request.scope["hpo.body"]
    said = actions.act(board, request.path_params["study"], request.path_params["action"], form)
    return {"message": said.message}


def _size(request: Request, default: int) -> int:
    size = pages.whole(request.query_params, "size", default)
    if size > MAX_SIZE:
        raise UserError(f"size must be at most {MAX_SIZE}, got {size}")
    return size


_PAGING = (
    ("page", "integer", "1, 2, ..."),
    ("size", "integer", f"Rows of a page, at most {MAX_SIZE}."),
)
_STUDY = "/studies/{study}"
_TRIAL = _STUDY + "/trials/{trial:int}"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "/studies",
        "Studies with their progress, filtered, sorted and paged in SQL.",
        _studies,
        shapes.Studies,
        (
            ("q", "string", "Part of the name."),
            ("state", "string", "running, paused, stopping, stopped or finished."),
            ("sort", "string", f"One of {', '.join(overview.SORTS)}; '-' before it descends."),
            *_PAGING,
        ),
    ),
    Endpoint(_STUDY, "One study: state, budget, counts, best, spec.", _study, shapes.Study),
    Endpoint(
        _STUDY + "/trials",
        "Trials, filtered, sorted and paged in SQL.",
        _trials,
        shapes.Trials,
        (
            ("state", "string", f"One of {', '.join(STATES)}."),
            ("sort", "string", f"One of {', '.join(listing.SORTS)} or param:NAME; '-' before it descends."),
            *_PAGING,
        ),
    ),
    Endpoint(_TRIAL, "One trial: reports, metrics, attempts, files, evaluation.", _trial, shapes.TrialDetail),
    Endpoint(_TRIAL + "/charts", "Plotly figures of one trial.", _trial_charts, shapes.Charts),
    Endpoint(
        _TRIAL + "/log",
        "What one attempt printed; null when it cannot be read from here.",
        _log,
        shapes.Log,
        (("attempt", "integer", "Default: the last."),),
    ),
    Endpoint(
        _STUDY + "/charts/{chart}",
        "A plotly figure of the study.",
        _chart,
        shapes.Chart,
        (
            ("metric", "string", "For `learning`: a named metric instead of what is reported."),
            ("log", "integer", "1: logarithmic value axis."),
        ),
    ),
    Endpoint(_STUDY + "/metrics", "Names of the metrics trials log.", _metrics, shapes.Metrics),
    Endpoint(
        _STUDY + "/curves",
        "Every named metric per step, of up to 50 trials.",
        _curves,
        shapes.Curves,
        (("trials", "string", "Numbers, like 3,17."),),
    ),
    Endpoint(_STUDY + "/audit", "Whether the invariants held.", _audit, shapes.AuditShape),
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
        shapes.Said,
        method="POST",
    ),
)
