"""A program as objective: the list of its arguments, with placeholders. Never a line for a shell."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hpo.spec.conditions import Space
from hpo.spec.problems import listed, nearest, problem, shown

Command = tuple[str | tuple[str, ...], ...]

# What a placeholder may name besides the study's own parameters and fixed values, which go first.
PLACES = ("attempt", "checkpoint", "device", "python", "resume", "seed", "study", "trial")
SOMETIMES = "resume"  # only where an earlier attempt has left a checkpoint
MAX_ARGUMENTS = 1000
_EXPECTED = 'write a list of arguments: [python, train.py, --lr, "{lr}"]'
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def check_command(value: Any) -> Command | None:
    """A command as text; numbers become it, and a list within stays one: an optional part.

    Raises:
        PydanticCustomError: pointing at the argument that is wrong.
    """
    if value is None:
        return None
    if isinstance(value, str):
        raise problem(f"is never given to a shell: {_EXPECTED}; got {shown(value)}")
    words = [
        tuple(_argument(part, index, at) for at, part in enumerate(_words(word, index)))
        if isinstance(word, list | tuple)
        else _argument(word, index)
        for index, word in enumerate(_words(value))
    ]
    if not isinstance(words[0], str) or not words[0]:
        raise problem(f"must begin with a program: {_EXPECTED}", 0)
    return tuple(words)


def check_places(command: Command, space: Space, fixed: Mapping[str, Any]) -> None:
    """Every placeholder names something, and something that is there in each trial.

    Raises:
        PydanticCustomError: pointing at the argument, with the nearest name.
    """
    allowed = [*space, *fixed, *PLACES]
    for at, word in _each(command):
        for name in places(word):
            if name not in allowed:
                hint = nearest(name, allowed) or f" (allowed: {listed(allowed)})"
                raise problem(
                    f"has the placeholder {{{name}}}, which nothing in `space` or `fixed` is called{hint};"
                    " a brace that is meant as one is written twice",
                    *at,
                )
            conditional = space[name].when is not None if name in space else name == SOMETIMES
            if len(at) == 1 and conditional and name not in fixed:
                raise problem(
                    f"needs {name}, which not every trial has; put what belongs to it into a list of its"
                    f' own, which is left out then: [--{name}, "{{{name}}}"]',
                    *at,
                )


def places(word: str) -> list[str]:
    """The names of an argument's placeholders."""
    return [match[1] for match in _PIECE.finditer(word) if match[1] is not None]


def filled(command: Command, values: Mapping[str, Any]) -> list[str]:
    """The arguments with their placeholders filled in; text as it is, anything else as JSON spells it.

    A list within is left out where a name in it has no value.
    """
    arguments = []
    for word in command:
        parts = (word,) if isinstance(word, str) else word
        if isinstance(word, str) or all(name in values for part in parts for name in places(part)):
            arguments += [_filled(part, values) for part in parts]
    return arguments


def shown_command(command: Sequence[str | Sequence[str]]) -> str:
    """A command as it would be typed."""
    return " ".join(
        shlex.quote(word) if isinstance(word, str) else f"[{shlex.join(word)}]" for word in command
    )


def _each(command: Command) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, word in enumerate(command):
        if isinstance(word, str):
            yield (index,), word
        else:
            yield from (((index, at), part) for at, part in enumerate(word))


def _filled(word: str, values: Mapping[str, Any]) -> str:
    def put(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        value = values[match[1]]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _PIECE.sub(put, word)


def _words(value: Any, *at: int) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise problem(f"must be a list: {_EXPECTED}; got {shown(value)}", *at)
    if not 1 <= len(value) <= MAX_ARGUMENTS:
        raise problem(f"has {len(value)} arguments; 1 to {MAX_ARGUMENTS} are allowed", *at)
    return list(value)


def _argument(word: Any, *at: int) -> str:
    if isinstance(word, dict):
        raise problem(f'is a mapping, {shown(word)}; a placeholder stands in quotes: "{{lr}}"', *at)
    if word is None or not isinstance(word, str | int | float):
        raise problem(f"must be text or a number, got {shown(word)}", *at)
    text = word if isinstance(word, str) else json.dumps(word)
    if "\0" in text:
        raise problem(f"holds a NUL byte, which no program can be given: {shown(text)}", *at)
    for match in _PIECE.finditer(text):
        if match[0] in "{}":
            raise problem(
                f"has a single brace; a brace that is meant as one is written twice: {shown(text)}", *at
            )
    return text
