"""The short form of `make fuzz`: the same hostile input from a fixed seed, a few seconds of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from starlette.testclient import TestClient

from tests.fuzz import cases, checks

QUICK = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    max_examples=100,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with checks.a_dashboard(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checks.a_place(tmp_path_factory.mktemp("fuzz"))


@seed(14)
@given(cases.study_files())
@QUICK
def test_any_study_file_is_read_or_refused(content: bytes) -> None:
    checks.check_study_file(content)


@seed(14)
@given(request_=cases.requests())
@QUICK
def test_any_request_is_answered(
    client: TestClient, request_: tuple[str, str, dict[str, str], bytes]
) -> None:
    checks.check_request(client, request_)


@seed(14)
@given(words=cases.command_lines())
@settings(QUICK, max_examples=30)
def test_any_command_line_ends_in_a_sentence(folder: Path, words: list[str]) -> None:
    checks.check_command_line(words, folder)
