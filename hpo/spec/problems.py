"""Problems found in a study file, told as sentences: where, what, and the nearest right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic_core import PydanticCustomError

from hpo.errors import SpecError, printable

Path = tuple[Any, ...]  # keys and list indexes from the top of the study file down to a value

PROBLEM = "hpo_problem"
_SHOWN = 80  # characters of a value that an error repeats


def problem(sentence: str, *at: Any) -> PydanticCustomError:
    """An error for a validator to raise: `sentence` follows the field's path in the message.

    `at` leads from the validated value down to the part that is wrong, so that a check that
    needs several fields can still point at one of them.
    """
    return PydanticCustomError(PROBLEM, "{sentence}", {"sentence": sentence, "at": at})


@contextmanager
def within(*at: Any) -> Iterator[None]:
    """A problem raised in the block is seen from a value further up: `at` leads down to where it came up."""
    try:
        yield
    except PydanticCustomError as error:
        place, sentence = found(error)
        raise problem(sentence, *at, *place) from None


def found(error: PydanticCustomError) -> tuple[Path, str]:
    """Where a problem is, and its sentence, which follows that place."""
    context = error.context or {}
    return context["at"], context["sentence"]


def spec_error(message: str) -> SpecError:
    """The error for one sentence, whatever the user's file put into it."""
    return SpecError(printable(message))


def shown(value: Any) -> str:
    """A value as an error repeats it: as YAML would spell it, cut when long."""
    text = _spelled(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _spelled(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value[: _SHOWN * 2])
        case list() | tuple():
            return f"[{', '.join(_spelled(item) for item in value[:_SHOWN])}]"
        case dict():
            first = list(value.items())[:_SHOWN]
            return f"{{{', '.join(f'{key}: {_spelled(item)}' for key, item in first)}}}"
        case _:
            return repr(value)


def listed(names: Iterable[Any]) -> str:
    """`a, b, c`, as the end of a sentence that says what is allowed."""
    return ", ".join(str(name) for name in names)


def nearest(name: Any, allowed: Iterable[Any]) -> str:
    """`; did you mean 'low'?` where a name resembles an allowed one, else an empty string."""
    names = [str(candidate) for candidate in allowed]
    text = str(name)[:100]
    swapped = [candidate for candidate in names if sorted(candidate) == sorted(text)]
    close = swapped or difflib.get_close_matches(text, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def dotted(path: Sequence[Any]) -> str:
    """`space.lr.low`, or an empty string for the whole file."""
    return ".".join(str(part) for part in path)
