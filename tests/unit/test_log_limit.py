"""An attempt's log: bounded, however much is printed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpo.runner import output
from storage.files.artifacts import ArtifactStore
from tests.support.waiting import wait_until


def test_a_log_keeps_its_head_and_its_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where its attempt ends before anybody looks, too; the line between says what is missing."""
    monkeypatch.setattr(output, "LOOK_SECONDS", 1000)
    with output.captured(ArtifactStore(tmp_path.as_uri()), "0/1", 100_000):
        os.write(1, b"the first line\n" + b"x" * 150_000)
        os.write(2, b"y" * 200_000 + b"\nthe last line\n")
    found = (tmp_path / "0" / "1" / "log.txt").read_bytes()
    assert len(found) <= 100_000
    assert found.startswith(b"the first line\n")
    assert found.endswith(b"y\nthe last line\n")
    assert b"bytes left out: a log keeps at most 100,000 ---" in found
    assert "the last line" not in capfd.readouterr().out


@pytest.mark.parametrize("size", [150_000, 250_000], ids=["once nobody writes", "beyond twice the limit"])
def test_a_log_that_grows_too_large_is_bounded_while_its_attempt_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(output, "LOOK_SECONDS", 0.01)
    file = tmp_path / "0" / "1" / "log.txt"
    with output.captured(ArtifactStore(tmp_path.as_uri()), "0/1", 100_000):
        os.write(1, b"the first line\n" + b"x" * size)
        wait_until(lambda: b"bytes left out" in file.read_bytes())
    assert file.read_bytes().startswith(b"the first line\n")


def test_a_short_log_is_left_alone(tmp_path: Path) -> None:
    with output.captured(ArtifactStore(tmp_path.as_uri()), "0/1", 100_000):
        os.write(1, b"once\n")
    assert (tmp_path / "0" / "1" / "log.txt").read_bytes() == b"once\n"
