"""What the first visitor would otherwise wait for: done before the server answers, or while nobody asks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from hpo.dashboard import assets, pages
from hpo.dashboard.board import Board
from hpo.dashboard.lists import list_studies
from hpo.dashboard.render import environment
from hpo.report.drawing.theme import encode, templates
from hpo.report.sections import pictures
from storage.history.records import StudyHistory, TrialRecord

QUIET = 3.0  # seconds without a request before something big begins: it would slow down who is looking


async def warm_up(board: Board) -> None:
    """When nobody is waiting, make ready what the next visitor asks for."""
    while board.quiet_for() < QUIET:
        await asyncio.sleep(1)
    await asyncio.to_thread(board.warm_recent)


def prepare(board: Board) -> None:
    """What every page needs: templates and queries compiled, validators and scipy loaded, scripts packed.

    Half a second that would be more than that beside the first visitor's own requests.
    """
    import scipy.optimize  # noqa: F401 -- of the model of parameters

    for name in environment().list_templates():
        environment().get_template(name)
    assets.load()
    templates()
    trial = TrialRecord(0, "complete", (0.5,), {}, started=datetime.now(UTC))
    history = StudyHistory("warm", "running", ("maximize",), {}, (trial,))
    encode(next(pictures(history, "progress")).untitled())
    with suppress(Exception):  # whoever asks for this page will be told; all others are served
        for name in list_studies(board.database, lambda _connection, name: name, size=1).studies:
            pages.study(board, {}, name)
