"""How a study file names its objective: `module[:callable]` or `path/to/file.py:callable`."""

from __future__ import annotations

from typing import Any

from hpo.spec.problems import problem, shown
from objectives.imports import ObjectivePath

DEFAULT_CALLABLE = "objective"


def parse_factory(text: Any) -> ObjectivePath:
    """Read the name of a factory of samplers or pruners; `make` is the callable where none is named.

    Raises:
        PydanticCustomError: saying which form is expected.
    """
    return parse_objective(text, "make")


def check_factory(text: Any) -> str:
    """`text` itself, if `parse_factory` reads it."""
    parse_factory(text)
    return str(text)


def parse_objective(text: Any, default: str = DEFAULT_CALLABLE) -> ObjectivePath:
    """Read the name of an objective; `default` is the callable where none is named.

    Raises:
        PydanticCustomError: saying which form is expected.
    """
    expected = "write module, module:callable or path/to/file.py:callable"
    if not isinstance(text, str) or not text.strip():
        raise problem(f"must name a callable: {expected}; got {shown(text)}")
    if not text.isprintable() or len(text) > 1000:
        raise problem(f"must be printable and at most 1000 characters long, got {shown(text)}")
    place, _, name = text.rpartition(":")
    if not place or name.endswith(".py"):
        place, name = text, default
    if not all(part.isidentifier() for part in name.split(".")):
        raise problem(f"has no valid callable after the colon: {expected}; got {shown(text)}")
    if place.endswith(".py"):
        return ObjectivePath(None, place, name)
    if not all(part.isidentifier() for part in place.split(".")):
        hint = "; a file's name ends in .py" if "/" in place or "\\" in place else ""
        raise problem(f"is neither a module nor a .py file: {expected}{hint}; got {shown(text)}")
    return ObjectivePath(place, None, name)


def check_objective(text: Any) -> str | None:
    """`text` itself, if `parse_objective` reads it; None where a command stands in its place."""
    if text is None:
        return None
    parse_objective(text)
    return str(text)
