"""SQL compiled once in a process of tests, though nearly every test opens a database, and so an engine, anew.

An engine keeps what it has compiled for itself: half of what a test of the store computed was SQL's text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.engine import Engine

_MOST = 20_000  # statements; then all are forgotten


class _Compiled:
    """Of an engine its cache of compiled statements: those of every engine that speaks as this one does."""

    def __init__(self, everything: dict[Any, Any]) -> None:
        self._everything = everything

    def get(self, key: tuple[Any, ...]) -> Any:
        return self._everything.get(self._shared(key))

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        if len(self._everything) >= _MOST:
            self._everything.clear()
        self._everything[self._shared(key)] = compiled

    def clear(self) -> None:
        self._everything.clear()

    def _shared(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        dialect, *statement = key
        return type(dialect), getattr(dialect, "server_version_info", None), *statement


@contextmanager
def compiled_once() -> Iterator[None]:
    """Have engines that are made within share what they compile."""
    everything: dict[Any, Any] = {}
    make = Engine.__init__

    def made(self: Engine, *words: Any, **options: Any) -> None:
        make(self, *words, **options)
        self._compiled_cache = _Compiled(everything)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", made)
        yield
