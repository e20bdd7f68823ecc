"""Workplaces for end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.workplace import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty directory of this test alone."""
    return Workplace(tmp_path)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A directory that the tests of a module share, for studies they only look at."""
    return Workplace(tmp_path_factory.mktemp("place"))
