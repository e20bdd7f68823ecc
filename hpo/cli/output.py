"""Print things: tables for people, JSON for programs, messages to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hpo.cli.app import Format
from hpo.errors import printable

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{3}Z")
_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


def say(message: str) -> None:
    """A message to the person; never part of the output a program reads."""
    print(shown_lines(message), file=sys.stderr, flush=True)


def shown_lines(text: str) -> str:
    """Lines that others wrote (names, errors), with what could steer a terminal or hide text as escapes."""
    return "\n".join(map(printable, text.split("\n")))


def shown_log(text: str) -> str:
    """What a program printed: a terminal gets its lines, tabs, carriage returns and colours, and no more."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text) if sys.stdout.isatty() else text


def print_json(value: Any) -> None:
    """Strict JSON on standard output."""
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=plain, allow_nan=False, default=str))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    title: str | None = None,
    spare: Sequence[str] = (),  # columns that are left out where there is no room for all
) -> None:
    """A table on standard output; wide cells fold, and nothing in them is read as markup."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        show_header=any(columns),
        box=None,
        pad_edge=False,
    )
    console = Console(width=None if sys.stdout.isatty() else 160)
    texts = [[cell(value) for value in row] for row in rows]
    for left_out in ((), spare):
        stands = [place for place, column in enumerate(columns) if column not in left_out]
        down = [[columns[place], *(row[place] for row in texts)] for place in stands]
        widths = [max(cell_len(line) for one in its for line in one.split("\n")) for its in down]
        room = console.width - 2 * (len(stands) - 1)
        if sum(widths) <= room:
            break
    else:
        words = [max((cell_len(word) for one in its for word in one.split()), default=0) for its in down]
        least = _shared(words, room)
        more = _shared([width - own for width, own in zip(widths, least, strict=True)], room - sum(least))
        widths = list(map(sum, zip(least, more, strict=True)))
    for place, width in zip(stands, widths, strict=True):
        table.add_column(columns[place], overflow="fold", width=width)
    for row in texts:
        table.add_row(*(Text(row[place]) for place in stands))
    console.print(table)


def _shared(wanted: Sequence[int], room: int) -> list[int]:
    """What each gets of so much room: who wants less than an equal share all, the others what that leaves."""
    given = [0] * len(wanted)
    least_first = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, place in enumerate(least_first):
        given[place] = min(wanted[place], room // (len(wanted) - done))
        room -= given[place]
    return given


def print_rows(
    format_: Format,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
    empty: str,
    spare: Sequence[str] = (),
) -> None:
    """A list of records in the format asked for; `spare` is of a table."""
    if format_ is Format.JSON:
        print_json(list(rows))
    elif not rows:
        say(empty)
    else:
        print_table(columns, [[row.get(column) for column in columns] for row in rows], spare=spare)


def cell(value: Any) -> str:
    """A value as people read it in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
        if "name" in value:  # a sampler or pruner: its name, then its options
            rest = {key: item for key, item in value.items() if key != "name"}
            return f"{value['name']} ({cell(rest)})" if rest else str(value["name"])
        return ", ".join(f"{key}={cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "-"
    if found := _TIME.fullmatch(text := str(value)):
        return f"{found[1]}Z"
    return shown_lines(text)


def assigned(values: Mapping[str, Any]) -> str:
    """Parameters or attributes as `lr=0.1, betas=[0.9, 0.999], loss=null`."""
    return ", ".join(f"{name}={spelled(value)}" for name, value in values.items()) or "-"


def spelled(value: Any) -> str:
    """One of them: unlike in a table's cell, null is a value, and a list is told from several values."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {spelled(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spelled, value)) + "]"
    return cell(value)
