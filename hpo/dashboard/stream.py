"""Server-sent events: the live parts of one page, each time only those that changed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hpo.dashboard.board import Board
from hpo.dashboard.guard import is_signed_in
from hpo.dashboard.render import Page, Part, render_parts
from hpo.errors import DatabaseError, NotFoundError
from storage.database.errors import DatabaseUnreachableError, UnknownStudyError

TICK = 5.0  # seconds after which a page is rendered again although nothing was told: times go on


def event_stream(request: Request, board: Board, view: Callable[[], Page]) -> Response:
    """The stream for one open page. `view` is called in a thread, at the start and after each change."""
    return StreamingResponse(
        _events(request, board, view),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _events(request: Request, board: Board, view: Callable[[], Page]) -> AsyncIterator[str]:
    known: dict[str, str] = {}
    told_away = False
    heard: set[str] = set()
    began = time.monotonic()
    yield "retry: 2000\n\n"
    with board.hub.listen() as subscription:
        await board.hub.looks()  # before the page is: or a change between the two would be told by nobody
        while not await request.is_disconnected():
            try:
                if not await run_in_threadpool(is_signed_in, request):
                    return
                page, parts = await run_in_threadpool(_look, view)
            except (DatabaseError, DatabaseUnreachableError) as error:
                board.hub.note_away(str(error))
                if not told_away:
                    told_away = True
                    yield _event("away", {"why": str(error)})
            except (NotFoundError, UnknownStudyError) as error:
                yield _event("gone", {"why": str(error)})
                return
            else:
                if told_away:
                    told_away = False
                    yield _event("back", {})
                subscription.topics = page.topics
                changed = [part for part in parts.values() if known.get(part.id) != part.digest]
                known = {part.id: part.digest for part in parts.values()}
                if changed:
                    shown = [{"id": p.id, "digest": p.digest, "html": p.html} for p in changed]
                    took = round(1000 * (time.monotonic() - began), 1)
                    yield _event("parts", {"took": took, "parts": shown})
                if heard:
                    yield _event("charts", {})
            heard = await subscription.next(TICK)
            began = time.monotonic()
            if board.hub.closed:
                return
            if not heard:
                yield ": still here\n\n"


def _look(view: Callable[[], Page]) -> tuple[Page, dict[str, Part]]:
    page = view()
    return page, render_parts(page)


def _event(kind: str, content: object) -> str:
    return f"event: {kind}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n"
