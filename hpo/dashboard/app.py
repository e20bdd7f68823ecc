"""The application: routes to pages, the API and optuna-dashboard, behind one guard; errors as sentences."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from hpo.dashboard import actions, api, pages
from hpo.dashboard.access import Access, Role
from hpo.dashboard.assets import asset
from hpo.dashboard.board import Board
from hpo.dashboard.guard import Guard, path_of, session_of, token_of, who
from hpo.dashboard.housekeeping import keep_house
from hpo.dashboard.hub import Hub, RetryOnce
from hpo.dashboard.optunas_dashboard import PREFIXES, OptunaDashboard
from hpo.dashboard.render import Page, environment, render
from hpo.dashboard.stream import event_stream
from hpo.dashboard.table import as_csv, wish_of
from hpo.dashboard.warmup import prepare, warm_up
from hpo.errors import DatabaseError, HpoError, NotFoundError, UserError
from hpo.report.drawing.theme import encode, templates
from hpo.studies.reading import LogPart, read_log
from hpo.wiring import told
from storage.database.engine import Database
from storage.database.errors import StorageError

log = logging.getLogger(__name__)

View = Callable[[Board, Request], Page]
IMAGES = {  # what a browser may draw: told by the first bytes, none of them can hold a script
    "image/png": rb"\x89PNG\r\n\x1a\n",
    "image/jpeg": rb"\xff\xd8\xff",
    "image/gif": rb"GIF8[79]a",
    "image/webp": rb"RIFF....WEBP",
}


def make_board(database: Database, access: Access, *, lease: float = 15.0) -> Board:
    """What the pages share. It makes `database` impatient."""
    database.patience = RetryOnce()
    return Board(database, access, Hub(database), lease)


def build_app(board: Board) -> ASGIApp:
    """The whole dashboard as an ASGI application."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(prepare, board)
        work = (board.hub.run(), keep_house(board), warm_up(board))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = Starlette(
        routes=routes(),
        lifespan=lifespan,
        exception_handlers={HpoError: _said, StorageError: _said, HTTPException: _http, Exception: _broken},
    )
    app.state.board = board
    return Guard(GZipMiddleware(app, minimum_size=2000), board, foreign=PREFIXES)


def routes() -> list[Route]:
    """Every route; the tests walk them."""
    return [
        _page("/", lambda board, request: pages.studies(board, request.query_params)),
        _page(
            "/studies/{study}",
            lambda board, request: pages.study(board, request.query_params, request.path_params["study"]),
        ),
        _page(
            "/studies/{study}/trials/{trial:number}",
            lambda board, request: pages.trial(
                board, request.query_params, request.path_params["study"], request.path_params["trial"]
            ),
        ),
        _page(
            "/studies/{study}/events",
            lambda board, request: pages.events(board, request.path_params["study"]),
        ),
        _page("/workers", lambda board, request: pages.workers(board, request.query_params)),
        _page(
            "/compare",
            lambda board, request: pages.compare(
                board, request.query_params, request.query_params.getlist("study")
            ),
        ),
        Route("/studies/{study}/trials.csv", _table_file, methods=["GET"]),
        Route("/studies/{study}/trials/{trial:number}/files/{file}", _download, methods=["GET"]),
        Route("/studies/{study}/trials/{trial:number}/log/{attempt:number}", _log_file, methods=["GET"]),
        Route("/studies/{study}/actions/{action}", _act, methods=["POST"]),
        Route("/login", _login, methods=["GET", "POST"]),
        Route("/logout", _logout, methods=["POST"]),
        Route("/health", _health, methods=["GET"]),
        Route("/assets/templates.json", _templates, methods=["GET"]),
        Route("/assets/{file:path}", asset, methods=["GET"]),
        *api.routes(),
        *(
            Route(path, OptunaDashboard(), methods=["GET", "POST", "PUT", "DELETE"])
            for path in (
                f"{PREFIXES[0]}{{rest:path}}",
                *(f"{prefix}{{rest:path}}" for prefix in PREFIXES[1:]),
            )
        ),
    ]


def _page(path: str, view: View) -> Route:
    """A page, and under the same address the stream of what changes on it."""

    async def show(request: Request) -> Response:
        board: Board = request.app.state.board
        if "text/event-stream" in request.headers.get("accept", ""):
            return event_stream(request, board, lambda: view(board, request))
        if board.hub.away is not None:
            raise DatabaseError(board.hub.away)
        board.asked = time.monotonic()
        session = session_of(request)
        html = await run_in_threadpool(
            lambda: render(
                view(board, request),
                csrf=session.csrf if session else None,
                may_act=session is not None and session.role is Role.ACT,
                path=path_of(request),
            )
        )
        return HTMLResponse(html, headers={"Vary": "Accept, Cookie"})

    return Route(path, show, methods=["GET"], name=path)


async def _act(request: Request) -> Response:
    """A form without JavaScript: does it, and leads back to the study."""
    board: Board = request.app.state.board
    form = {name: str(value) for name, value in (await _form(request)).items()}
    study, action = request.path_params["study"], request.path_params["action"]
    if "text/html" in request.headers.get("accept", ""):
        asked = await run_in_threadpool(actions.question, board, study, action, form)
        if asked is not None:
            session = session_of(request)
            yes = {"csrf": session.csrf if session else "", **asked[1]}
            back = f"/studies/{quote(study, safe='')}"
            return _message(request, study, asked[0], 200, back=back, yes=yes)
    said = await run_in_threadpool(actions.act, board, study, action, form, who(request), token_of(request))
    target = "/" if action == "delete" else f"/studies/{quote(study, safe='')}"
    return _message(request, "Done", said, 200, back=target)


async def _form(request: Request) -> dict[str, str]:
    from urllib.parse import parse_qsl

    body = (await request.body()).decode("utf-8", "replace")
    form: dict[str, str] = {}
    for name, value in parse_qsl(body, keep_blank_values=True):
        form[name] = f"{form[name]},{value}" if name == "trial" and name in form else value
    return form


async def _download(request: Request) -> Response:
    """A file of a trial, always as an attachment: it is anybody's content. A picture has its type."""
    board: Board = request.app.state.board
    study, number = request.path_params["study"], request.path_params["trial"]
    content = await run_in_threadpool(pages.artifact, board, study, number, request.path_params["file"])
    kind = next((kind for kind, start in IMAGES.items() if re.match(start, content, re.DOTALL)), None)
    return _attachment(content, f"{study}-{number}-{request.path_params['file']}", kind)


async def _table_file(request: Request) -> Response:
    """The trials that the page's table has, on all its pages."""
    board: Board = request.app.state.board
    live = await run_in_threadpool(board.live, request.path_params["study"])
    wish = wish_of(request.query_params, 1, 1)
    return _attachment(await run_in_threadpool(as_csv, live, wish), f"{live.row.name}-trials.csv")


async def _log_file(request: Request) -> Response:
    """The whole log of one attempt, part by part: it may be larger than the memory."""
    board: Board = request.app.state.board
    study, number, attempt = (request.path_params[key] for key in ("study", "trial", "attempt"))
    row = await run_in_threadpool(board.row, study)
    first = await run_in_threadpool(read_log, row, number, attempt, 0, api.MAX_LOG)
    if first is None:
        raise NotFoundError(
            f"trial {number} of {study} has no log of attempt {attempt} that can be read here"
        )

    def parts() -> Iterator[str]:
        part: LogPart | None = first
        while part is not None and part.text:
            yield part.text
            part = read_log(row, number, attempt, part.end, api.MAX_LOG) if part.end < first.size else None

    return _attachment(parts(), f"{study}-{number}-attempt-{attempt}.log")


def _attachment(content: bytes | Iterator[str], name: str, kind: str | None = None) -> Response:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    made = Response(content) if isinstance(content, bytes) else StreamingResponse(content)
    made.headers["Content-Type"] = kind or "application/octet-stream"
    made.headers["Content-Disposition"] = disposition
    made.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return made


async def _login(request: Request) -> Response:
    """The form; the guard answers what is sent."""
    context = {
        "wrong": request.query_params.get("wrong") == "1",
        "used": request.query_params.get("used") == "1",
        "next": request.query_params.get("next", "/"),
    }
    return HTMLResponse(environment().get_template("login.html").render(context))


async def _logout(request: Request) -> Response:
    access: Access = request.app.state.board.access
    access.end_session(request.cookies.get(access.cookie, ""))
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(access.cookie, path="/", httponly=True, samesite="lax")
    return answer


async def _health(request: Request) -> Response:
    """Whether the database can be reached; nothing else, because anybody may ask."""
    away = request.app.state.board.hub.away is not None
    return JSONResponse({"database": "away" if away else "reachable"}, 503 if away else 200)


async def _templates(_request: Request) -> Response:
    return Response(
        encode(templates()),
        media_type="application/json",
        headers={"Cache-Control": "max-age=3600"},
    )


async def _said(request: Request, error: Exception) -> Response:
    """An error of ours: its sentence, and the status that fits."""
    if isinstance(error, StorageError):
        error = told(error)
    if isinstance(error, DatabaseError):
        request.app.state.board.hub.note_away(str(error))
        return _message(request, "The database cannot be reached", str(error), 503)
    if isinstance(error, NotFoundError):
        return _message(request, "Not found", str(error), 404)
    if isinstance(error, UserError):
        return _message(request, "That cannot be done", str(error), 400)
    log.warning("%s: %s", path_of(request), error)
    return _message(request, "That did not work", str(error), 500)


async def _http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = "There is nothing at this address." if status == 404 else str(getattr(error, "detail", ""))
    return _message(request, "Not found" if status == 404 else f"Error {status}", text, status)


async def _broken(request: Request, error: Exception) -> Response:
    """An error nobody foresaw: the details go to the log, never into a page."""
    log.error("%s failed", path_of(request), exc_info=error)
    return _message(request, "Something went wrong", "The details are in the dashboard's log.", 500)


def _message(
    request: Request,
    title: str,
    text: str,
    status: int,
    back: str | None = None,
    yes: dict[str, Any] | None = None,
) -> Response:
    """A page with one sentence, a question where it has a form that says `yes`; for scripts, JSON."""
    if path_of(request).startswith("/api/") or "application/json" in request.headers.get("accept", ""):
        key = "message" if status < 400 else "error"
        return Response(json.dumps({key: text}), status, media_type="application/json")
    context: dict[str, Any] = {
        "title": title,
        "text": text,
        "back": back,
        "yes": yes,
        "waits": status == 503,
        "path": path_of(request),
        "may_act": False,
        "csrf": None,
        "is_live": False,
    }
    return HTMLResponse(environment().get_template("message.html").render(context), status)
