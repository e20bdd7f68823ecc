"""Print things: tables for people, JSON for programs, messages to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hpo.cli.app import Format
from hpo.errors import printable

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


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table on standard output; wide cells fold, and nothing in them is read as markup."""
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
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)


def print_rows(format_: Format, rows: Sequence[dict[str, Any]], columns: Sequence[str], empty: str) -> None:
    """A list of records in the format asked for."""
    if format_ is Format.JSON:
        print_json(list(rows))
    elif not rows:
        say(empty)
    else:
        print_table(columns, [[row.get(column) for column in columns] for row in rows])


def cell(value: Any) -> str:
    """A value as people read it in a table."""
    if value is None:
        return "-"
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
    return shown_lines(str(value))


def assigned(values: Mapping[str, Any]) -> str:
    """Parameters or attributes as `lr=0.1, betas=[0.9, 0.999], loss=null`."""
    return ", ".join(f"{name}={spelled(value)}" for name, value in values.items()) or "-"


def spelled(value: Any) -> str:
    """One of them: unlike in a table's cell, null is a value, and a list is told from several values."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {spelled(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(spelled, value)) + "]"
    return cell(value)
