"""YAML 1.2 (core schema) to plain values, from events: bombs end at a limit, and lines are known.

PyYAML's loaders build first and ask later: its safe loader needs 14 seconds for a 2.6 MB file of
brackets and expands aliases without limit. Here the events of its parser are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from hpo.errors import SpecError, UserError
from hpo.spec.problems import Path, shown, spec_error

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000
MAX_DIGITS = 400  # of one number

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
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


@dataclass(frozen=True)
class _Place:
    """What errors call the text that is read."""

    name: str
    numbered: bool

    def error(self, what: str, line: int | None = None) -> SpecError:
        """The error to raise, with the line where there is one to tell."""
        return spec_error(
            f"{self.name}, line {line}: {what}" if line and self.numbered else f"{self.name}: {what}"
        )


def read_yaml(content: bytes, name: str, *, numbered: bool = True) -> Document:
    """Read one YAML document. `name` says in errors where it is from, with the line if `numbered`.

    Raises:
        SpecError: when it is too large or deep, is no UTF-8 text, no YAML, holds an alias, a tag,
            a second document or a repeated key.
    """
    where = _Place(name, numbered)
    text = _decoded(content, where)
    try:
        return _Builder(where).build(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.problem, error.context) if part)
        line = mark.line + 1 if mark else None
        raise where.error(f"is not valid YAML: {what or 'cannot be read'}", line) from error
    except yaml.YAMLError as error:
        raise where.error(f"is not valid YAML: {str(error).splitlines()[0]}") from error


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


def _decoded(content: bytes, where: _Place) -> str:
    if len(content) > MAX_BYTES:
        raise where.error(f"is larger than {MAX_BYTES:,} bytes; that is no study file")
    if b"\0" in content:
        raise where.error("holds a NUL byte; a study file is UTF-8 text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise where.error("is not UTF-8 text; a study file is", line) from error
    if control := _CONTROL.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise where.error(f"holds the control character {control.group()!r}", line)
    return text


class _Builder:
    """Turns parser events into values with a stack of its own: no recursion, nothing built twice."""

    def __init__(self, where: _Place) -> None:
        self._where = where
        self._lines: dict[Path, int] = {}
        self._nodes = 0

    def build(self, events: Iterator[Any]) -> Document:
        root: list[Any] = []
        stack: list[_Open] = [_Open(root, None)]
        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise self._error(line, "holds a second document; a study file is one")
                case yaml.AliasEvent():
                    raise self._error(line, f"uses the alias *{event.anchor}; write the value out")
                case yaml.ScalarEvent():
                    self._admit(event, line)
                    stack[-1].add(self._scalar(event, line), line, self)
                case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._admit(event, line)
                    if len(stack) > MAX_DEPTH:
                        raise self._error(line, f"is nested deeper than {MAX_DEPTH} levels")
                    holder: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                    stack.append(_Open(holder, stack[-1].add(holder, line, self)))
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    stack.pop()
        if not root:
            raise self._where.error("is empty")
        return Document(root[0], self._lines)

    def _admit(self, event: Any, line: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(line, f"holds more than {MAX_NODES:,} values; that is no study file")
        if event.anchor is not None:
            raise self._error(line, f"uses the anchor &{event.anchor}; write the value out")
        if event.tag not in (None, "!"):
            raise self._error(line, f"uses the tag {shown(event.tag)}; plain values only")

    def _scalar(self, event: Any, line: int) -> Any:
        if not event.implicit[0]:  # quoted
            return event.value
        try:
            return read_scalar(event.value)
        except ValueError as error:
            raise self._error(line, f"holds {error}; at most {MAX_DIGITS} digits are allowed") from error

    def _error(self, line: int, what: str) -> SpecError:
        return self._where.error(what, line)

    def note(self, path: Path, line: int) -> None:
        """Remember where a part begins; a mapping's value begins at its key."""
        self._lines.setdefault(path, line)

    def repeated(self, path: Path, line: int) -> SpecError:
        first = self._lines.get(path)
        where = f" (first on line {first})" if first else ""
        return self._error(line, f"the key {shown(path[-1])} stands twice{where}")

    def bad_key(self, line: int) -> SpecError:
        return self._error(line, "a list or mapping cannot be a key")


_NO_KEY = object()


class _Open:
    """A list or mapping that is still being filled."""

    def __init__(self, holder: Any, path: Path | None) -> None:
        self._holder = holder
        self._path = path or ()
        self._is_root = path is None  # holds the document itself
        self._key: Any = _NO_KEY

    def add(self, value: Any, line: int, builder: _Builder) -> Path:
        """Put the next value (a mapping's keys and values alternate); returns its path."""
        if isinstance(self._holder, list):
            path = () if self._is_root else (*self._path, len(self._holder))
            self._holder.append(value)
            builder.note(path, line)
            return path
        if self._key is _NO_KEY:
            if isinstance(value, list | dict):
                raise builder.bad_key(line)
            path = (*self._path, value)
            if value in self._holder:
                raise builder.repeated(path, line)
            builder.note(path, line)
            self._key = value
            return path
        path = (*self._path, self._key)
        self._holder[self._key] = value
        self._key = _NO_KEY
        return path


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
