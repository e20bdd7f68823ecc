"""YAML 1.2 (core schema) to plain values, from events: bombs end at a limit, and lines are known.

PyYAML's loaders build first and ask later: its safe loader needs 14 seconds for a 2.6 MB file of
brackets and expands aliases without limit. Here the events of its parser are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from hpo.errors import SpecError, UserError, first_line
from hpo.spec.problems import Path, shown, spec_error

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000
MAX_DIGITS = 400  # of one number
_TWO_COLONS = "mapping values are not allowed in this context"  # PyYAML's words for it

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its parser is used

_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass(frozen=True)
class Document:
    """A YAML document's value, and the line (from 1) on which each part of it begins."""

    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line of the part at `path`, or of the nearest part around it."""
        around = (path[:length] for length in range(len(path), 0, -1))
        return next((self.lines[part] for part in around if part in self.lines), None)


def read_yaml(content: bytes, name: str, *, numbered: bool = True) -> Document:
    """Read one YAML document. `name` says in errors where it is from, with the line if `numbered`.

    Raises:
        SpecError: when it is too large or deep, is no UTF-8 text, no YAML, holds an alias, a tag,
            a second document or a repeated key.
    """

    def error(what: str, line: int | None = None) -> SpecError:
        return spec_error(f"{name}, line {line}: {what}" if line and numbered else f"{name}: {what}")

    text = _decoded(content, error)
    try:
        return _Builder(error, yaml.parse(text, Loader=_Loader)).build()
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        what = ", ".join(part for part in (wrong.problem, wrong.context) if part) or "cannot be read"
        if mark and text[mark.index : mark.index + 1] == "\t":
            what = "a tab stands where YAML takes spaces alone"
        elif wrong.problem == _TWO_COLONS:
            what += "; does the line before lack its colon, or a text with ': ' in it its quotes?"
        raise error(f"is not valid YAML: {what}", mark.line + 1 if mark else None) from wrong
    except yaml.YAMLError as wrong:
        raise error(f"is not valid YAML: {first_line(wrong)}") from wrong


def read_scalar(text: str) -> Any:
    """A plain (unquoted) scalar as YAML 1.2's core schema reads it.

    Raises:
        ValueError: for a number of more than 400 digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MAX_DIGITS and (_INT.fullmatch(text) or _FLOAT.fullmatch(text) or _HEX.fullmatch(text)):
        raise ValueError(f"a number of {len(text)} characters")
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text[2:], 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _decoded(content: bytes, error: Callable[..., SpecError]) -> str:
    if len(content) > MAX_BYTES:
        raise error(f"is larger than {MAX_BYTES:,} bytes; that is no study file")
    if b"\0" in content:
        raise error("holds a NUL byte; a study file is UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = content.count(b"\n", 0, wrong.start) + 1
        raise error("is not UTF-8 text; a study file is", line) from wrong
    if control := _CONTROL.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise error(f"holds the control character {control.group()!r}", line)
    return text


class _Builder:
    """Turns parser events into values: nothing is built twice, and nothing deeper than `MAX_DEPTH`."""

    def __init__(self, error: Callable[..., SpecError], events: Iterator[Any]) -> None:
        self._told = error
        self._events = events
        self._lines: dict[Path, int] = {}
        self._nodes = 0

    def build(self) -> Document:
        value, documents = None, 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "holds a second document; a study file is one")
                value = self._value(next(self._events), ())
        if not documents:
            raise self._told("is empty")
        return Document(value, self._lines)

    def _value(self, event: Any, path: Path) -> Any:
        self._admit(event)
        self._note(path, event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= MAX_DEPTH:
            raise self._error(event, f"is nested deeper than {MAX_DEPTH} levels")
        return self._list(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _list(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._admit(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error(event, "a list or mapping cannot be a key")
            key = self._scalar(event)
            at = (*path, key)
            if key in found:
                raise self._error(
                    event, f"the key {shown(key)} stands twice (first on line {self._lines[at]})"
                )
            self._note(at, event)
            found[key] = self._value(next(self._events), at)
        return found

    def _note(self, path: Path, event: Any) -> None:
        """Remember where a part begins; a mapping's value begins at its key."""
        self._lines.setdefault(path, event.start_mark.line + 1)

    def _admit(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, f"uses the alias *{event.anchor}; write the value out")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(event, f"holds more than {MAX_NODES:,} values; that is no study file")
        if event.anchor is not None:
            raise self._error(event, f"uses the anchor &{event.anchor}; write the value out")
        if event.tag not in (None, "!"):
            raise self._error(event, f"uses the tag {shown(event.tag)}; plain values only")

    def _scalar(self, event: Any) -> Any:
        if not event.implicit[0]:  # quoted
            return event.value
        try:
            return read_scalar(event.value)
        except ValueError as error:
            raise self._error(event, f"holds {error}; at most {MAX_DIGITS} digits are allowed") from error

    def _error(self, event: Any, what: str) -> SpecError:
        return self._told(what, event.start_mark.line + 1)


def read_point(words: Iterable[str]) -> dict[str, Any]:
    """`lr=0.01 optimizer=adam` as a point; values are read as a study file reads them.

    Raises:
        UserError: a word of another form, a number that is too long, or no word.
    """
    point: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UserError(f"{word[:60]!r} is not NAME=VALUE, for example lr=0.01")
        try:
            point[name.strip()] = read_scalar(value.strip())
        except ValueError as error:
            raise UserError(
                f"{name.strip()[:60]} holds {error}; at most {MAX_DIGITS} digits are allowed"
            ) from None
    if not point:
        raise UserError("name at least one parameter, for example lr=0.01")
    return point
