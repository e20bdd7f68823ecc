"""What each page shows: reads the database, returns a `Page`. Called in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpo import text
from hpo.dashboard import actions, charts
from hpo.dashboard import table as tables
from hpo.dashboard.board import Board
from hpo.dashboard.hub import STUDIES, WORKERS, study_topic
from hpo.dashboard.lists import StudyCard, card_of, list_studies
from hpo.dashboard.render import Page
from hpo.errors import NotFoundError, UserError
from hpo.report.records.confirmation import sentences
from hpo.report.records.failures import apart, failures, storm
from hpo.report.records.scores import once, value_name
from hpo.report.records.summary import comparison
from hpo.report.records.training import headline, parse_evaluation
from hpo.report.sections import comparable
from hpo.studies import answers, commands, confirmed, reading
from hpo.studies.why import why
from storage.database.engine import Transaction
from storage.database.records import StudyRow, StudyState
from storage.history.attempts import FileRow, attempts_of, files_of
from storage.history.lists import Progress, progress, running_ids
from storage.history.records import NOTE, Confirmation, StudyHistory, TrialRecord
from storage.history.trials import Part, count_trials, read_trial, read_trials
from storage.queue.events import Event, of_study
from storage.queue.launches import Launch, all_launches
from storage.queue.optuna_rows import study_attributes
from storage.queue.workers import all_workers

LOG_TAIL = 60_000  # bytes of a log on the page; the whole is a download
MAX_COMPARED = 8
MAX_WORKERS = 200  # on one page
MAX_LAUNCHES = 50
MAX_EVENTS = 500
MAX_FRONT = 30
MAX_BESIDE = 6  # trials beside each other
LOG_END = 4_000  # bytes of each one's log there
SMALL = 500  # trials that are read whole for the page's first words
MAX_RUNNING = 12  # shown as running now
MAX_FAILURES = 8  # kinds of errors shown
MAX_PICTURES = 12  # of a trial, shown on its page
MAX_PICTURE = 5_000_000  # bytes of one
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
TABLES = (".csv", ".tsv", ".jsonl")  # shown when they are opened
MAX_TABLE = 1_000_000
SHOWN = (
    Part.PARAMS | Part.REPORTS | Part.ATTRIBUTES | Part.ATTEMPTS
)  # of a trial on its page; its charts are asked for later
Query = Mapping[str, str]


def studies(board: Board, query: Query) -> Page:
    """Every study: state, progress, best, who works on it."""
    state, sort = query.get("state") or None, query.get("sort") or "-created"
    found = list_studies(
        board.database,
        card_of,
        text=query.get("q", ""),
        state=state,
        sort=sort,
        page=whole(query, "page", 1),
        size=20,
    )
    context = {
        "listing": found,
        "states": list(StudyState),
        "chosen": {"q": query.get("q", ""), "state": state or "", "sort": sort},
        "sort": sort,
    }
    return Page("studies.html", context, {"list": "parts/studies.html"}, frozenset({STUDIES, WORKERS}))


def study(board: Board, query: Query, name: str) -> Page:
    """One study: cards, charts, the table of trials. The charts are asked for by the browser."""
    live = board.live(name)
    is_small = live.known or board.database.read(count_trials, live.row) <= SMALL
    history = live.refresh() if is_small else None

    def read(
        connection: Transaction,
    ) -> tuple[Progress, Confirmation | None, Sequence[TrialRecord], TrialRecord | None, Any]:
        now = progress(connection, name, history)
        note = study_attributes(connection, now.row.optuna_study_id, "study user").get(NOTE)
        if history is not None:
            running = [trial for trial in reversed(history.trials) if trial.state == "running"]
            return now, history.confirmation, running[:MAX_RUNNING], history.best, note
        ids = running_ids(connection, now.row, MAX_RUNNING)
        found = read_trials(connection, now.row, ids, with_=Part.LINE).values()
        return now, confirmed.of(connection, now.row), tuple(found), _best(connection, now), note

    now, confirmation, running, best, note = board.database.read(read)
    row = now.row
    wish = tables.wish_of(
        query, whole(query, "page", 1), min(whole(query, "size", tables.SIZES[0]), tables.SIZES[-1])
    )
    wrong = ""
    try:
        table = tables.list_trials(live, wish, history=history)
    except UserError as error:
        table, wrong = tables.TrialPage((), 0, 1, 1, None), str(error)
    usual = tables.usual_columns(row, table.trials)
    columns = wish.columns or usual
    chosen = now.best_number if confirmation is None else confirmation.choose(now.best_number)
    tested = None if chosen is None else row.test_of(chosen)
    known = history or board.sampled(row, now.best_number)
    names = [value_name(known, index) for index in range(len(row.spec["directions"]))]
    front = history.winners[:MAX_FRONT] if history and len(names) > 1 else ()
    context = {
        "row": row,
        "ahead": not query,  # what is picked in the address is not known here
        "objective": answers.shown_objective(row),
        "card": StudyCard(now, (), answers.seconds_left(now)),
        "test": headline(parse_evaluation(tested, "test"), names[0]),
        "tested": chosen,
        "confirmation": confirmation,
        "how_sure": sentences(confirmation, now.best_number) if confirmation else [],
        "table": table,
        "wish": wish,
        "beside": _beside(row, table) if wish.where else None,
        "wrong": wrong,
        "columns": columns,
        "others": [key for key in [*usual, *tables.more_columns(known)] if key not in columns],
        "sizes": tables.SIZES,
        "quick": tables.quick_filters(wish.where, len(row.spec["directions"]) > 1, row.marked > 0),
        "note": note,
        "chosen": {
            "where": wish.where,
            "sort": "" if wish.sort == "-number" else wish.sort,
            "columns": ",".join(wish.columns),
            "size": "" if wish.size == tables.SIZES[0] else wish.size,
        },
        "title_of": lambda key: tables.heading(key, names),
        "is_left": tables.is_left,
        "cell": tables.cell,
        "moved": tables.moved,
        "sections": charts.study_slots(
            row, len({*row.spec["space"], *live.parameters, *(key for t in table.trials for key in t.params)})
        ),
        "running": running,
        "stuck": _why_stuck(board, now),
        **_failed(history),
        "front": front,
        "front_params": list(dict.fromkeys(name for one in front for name in one.params)),
        "on_front": len(history.winners) if front and history else 0,
        "point_of": commands.point_yaml,
        "best": best,
        "best_first": best is not None and row.state.ended and not now.counts.running,
        "best_yaml": commands.point_yaml(best.params) if best else "",
        "best_command": commands.enqueue_command(row, best.params) if best else "",
        "worker_command": commands.worker_command(board.database, row),
        "value_names": names,
        "questions": actions.QUESTIONS,
    }
    parts = {
        "cards": "parts/study_cards.html",
        "now": "parts/study_now.html",
        "failed": "parts/study_failed.html",
        "beside": "parts/study_beside.html",
        "slices": "parts/study_slices.html",
        "bestparams": "parts/study_best.html",
        "confirmation": "parts/study_confirmation.html",
        "told": "parts/study_told.html",
        "trials": "parts/study_trials.html",
    }
    return Page("study.html", context, parts, frozenset({study_topic(name)}))


def trial(board: Board, query: Query, name: str, number: int) -> Page:
    """One trial: parameters against the best, metrics, evaluation, attempts, log, files."""
    row = board.row(name)
    record = board.database.read(read_trial, row, number, with_=SHOWN)
    if record is None:
        raise NotFoundError(f"{name} has no trial {number}")
    attempts = board.database.read(attempts_of, row, number)
    wanted = whole(query, "attempt", attempts[-1].number if attempts else 1)
    log = reading.read_log(row, number, wanted, -LOG_TAIL, LOG_TAIL)
    evaluation = parse_evaluation(reading.read_evaluation(board.database, row, number))
    files = board.database.read(files_of, row, number)
    best = board.database.read(lambda c: _best(c, progress(c, name)))
    context = {
        "row": row,
        "trial": record,
        "best": best,
        "names": list(dict.fromkeys([*record.params, *(best.params if best else {})])),
        "attempts": [answers.attempt(attempt) for attempt in attempts],
        "attempt": wanted,
        "log": log,
        "files": files,
        "pictures": [file for file in files if _is(file, PICTURES, MAX_PICTURE)][:MAX_PICTURES],
        "tables": [file for file in files if _is(file, TABLES, MAX_TABLE)],
        "evaluation": evaluation,
        "why": board.database.read(why, row, record),
        "replay": commands.enqueue_command(row, record.params),
        "step": "epoch" if "epochs" in row.spec.get("fixed", {}) else "step",
    }
    parts = {
        "facts": "parts/trial_facts.html",
        "attempts": "parts/trial_attempts.html",
        "log": "parts/trial_log.html",
        "files": "parts/trial_files.html",
    }
    return Page("trial.html", context, parts, frozenset({study_topic(name)}))


def events(board: Board, name: str) -> Page:
    """Who did what to a study, the newest first; also to one that is no more."""
    context = {"name": name, "events": events_of(board, name)[::-1]}
    return Page("events.html", context, {"list": "parts/events.html"}, frozenset({study_topic(name)}))


def events_of(board: Board, name: str) -> list[Event]:
    """Who did what to a study, oldest first.

    Raises:
        NotFoundError: there neither is nor was a study of that name.
    """
    found = board.database.read(of_study, name, limit=MAX_EVENTS)
    if not found:
        board.row(name)
    return found


def workers(board: Board, query: Query) -> Page:
    """Every machine, and what it is at."""
    everything = query.get("all") == "1"
    found = every_worker(board)
    gone = [item for item in found if item.state == "left"]
    shown = found if everything else [item for item in found if item.state != "left"]
    order = {"active": 0, "quarantined": 1, "lost": 2, "left": 3}
    shown.sort(key=lambda item: (order.get(item.state, 9), item.name))
    context = {
        "workers": [(item, _meters(item.status)) for item in shown[:MAX_WORKERS]],
        "gone": len(gone),
        "everything": everything,
        "launches": launched(board)[:MAX_LAUNCHES],
    }
    parts = {"list": "parts/workers.html", "launches": "parts/launches.html"}
    return Page("workers.html", context, parts, frozenset({WORKERS, STUDIES}))


def every_worker(board: Board, study: str | None = None) -> list[answers.Worker]:
    """Every worker, or those of one study.

    Raises:
        NotFoundError: no such study.
    """
    study_id = None if study is None else board.row(study).id
    found = board.database.read(all_workers, study_id)
    return [answers.worker(row) for row in found]


def launched(board: Board) -> list[Launch]:
    """Every launch: those that nobody stopped first, the newest of each before the others.

    Raises:
        DatabaseError
    """
    found = board.database.read(all_launches)
    return sorted(found, key=lambda row: (row.stopped is not None, -row.id))


def compare(board: Board, query: Query, names: Sequence[str]) -> Page:
    """Several studies in one picture each, and a table of their best."""
    known = list_studies(board.database, lambda _connection, name: name, size=200)
    histories = [history for history, _ in compared(board, names)]
    context = {
        "names": [history.name for history in histories],
        "known": list(known.studies),
        "rows": comparison(tuple(histories)),
        "comparable": comparable(histories),
        "slots": charts.comparison_slots(),
    }
    topics = frozenset(study_topic(history.name) for history in histories)
    return Page("compare.html", context, {"table": "parts/compare.html"}, topics)


def compared(board: Board, names: Sequence[str]) -> list[tuple[StudyHistory, int]]:
    """The histories to compare and their versions, in the given order.

    Raises:
        UserError: too many. NotFoundError, DatabaseError
    """
    unique = list(dict.fromkeys(name for name in names if name))
    if len(unique) > MAX_COMPARED:
        raise UserError(f"at most {MAX_COMPARED} studies can be compared at once, not {len(unique)}")
    return [board.history(name) for name in unique]


def _meters(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The machine's load as its worker last told it; meters that make no sense are left out."""
    meters = []
    for item in status.get("load") or ():
        value, most = item.get("value"), item.get("max")
        if isinstance(value, int | float) and isinstance(most, int | float) and most > 0:
            shown = f"{value:.0f} %"
            if item.get("unit") == "bytes":
                shown = f"{value / 1e9:.1f} of {most / 1e9:.1f} GB"
            meters.append({"name": str(item.get("name")), "value": value, "max": most, "text": shown})
    return meters


def whole(query: Query, name: str, default: int, least: int = 1) -> int:
    """A whole number of the address, at least `least`.

    Raises:
        UserError: it is something else.
    """
    raw = query.get(name)
    if not raw:
        return default
    if not raw.isascii() or not raw.isdigit() or not least <= int(raw[:10]) < 1_000_000_000:
        raise UserError(f"{name} must be a whole number from {least} on, got {raw[:40]!r}")
    return int(raw)


def artifact(board: Board, name: str, number: int, file: str) -> bytes:
    """A file kept with a trial.

    Raises:
        NotFoundError: there is none of that name, or it cannot be read here.
    """
    content = reading.read_artifact(board.database, board.row(name), number, file)
    if content is None:
        raise NotFoundError(f"trial {number} of {name} left no file {file[:100]!r} that can be read here")
    return content


def _best(connection: Transaction, now: Progress) -> TrialRecord | None:
    """The best trial; None without one or with several directions."""
    if now.best_id is None:
        return None
    return read_trials(connection, now.row, [now.best_id], with_=Part.PARAMS).get(now.best_id)


def _is(file: FileRow, ends: tuple[str, ...], most: int) -> bool:
    """Whether a file is called so and is small; what its bytes are is seen when it is asked for."""
    return file.name.lower().endswith(ends) and file.bytes <= most


def _beside(row: StudyRow, table: tables.TrialPage) -> dict[str, Any] | None:
    """A few trials beside each other: the parameters in which they differ, and the ends of their logs."""
    if not 2 <= table.total <= MAX_BESIDE or table.total != len(table.trials):
        return None
    trials = sorted(table.trials, key=lambda trial: trial.number)
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    differing = [name for name in names if len({repr(trial.params.get(name)) for trial in trials}) > 1]
    logs = [_log_end(row, trial) for trial in trials]
    return {"trials": trials, "differing": differing, "logs": logs}


def _log_end(row: StudyRow, trial: TrialRecord) -> str:
    """The last lines that a trial's last attempt printed."""
    part = reading.read_log(row, trial.number, max(1, trial.attempts), -LOG_END, LOG_END)
    return "" if part is None else part.text


@once
def _failed(history: StudyHistory | None) -> dict[str, Any]:
    """What failed; looked for again only when the history has changed, not for each selection."""
    if history is None:
        return {"storm": "", "failures": (), "apart": ""}
    return {"storm": storm(history), "failures": failures(history)[:MAX_FAILURES], "apart": apart(history)}


def _why_stuck(board: Board, now: Progress) -> str:
    """Why nothing runs although trials wait; "" where something runs, or nothing is to be done."""
    row = now.row
    if row.state is not StudyState.RUNNING or now.counts.running:
        return ""
    here = [item for item in every_worker(board) if item.study in (None, row.name)]
    shut = [item for item in here if item.state == "quarantined"]
    if any(item.state == "active" for item in here):
        return "no trial runs at the moment; a worker is here"
    if shut:
        return f"{text.counted(len(shut), 'worker')} quarantined. {shut[-1].name}: {shut[-1].reason}"
    last = max((item for item in here), key=lambda item: -item.silent_for, default=None)
    if last is None:
        return "waits for its first worker"
    went = "is lost" if last.state == "lost" else "left"
    return f"waits for a worker: the last, {last.name}, {went} {text.duration(last.silent_for)} ago"
