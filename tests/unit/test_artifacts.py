"""Files kept with trials: whole or not at all, never outside the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore, check_name
from storage.errors import ArtifactError


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path.as_uri() if request.param == "file" else f"memory://{tmp_path.name}")


def test_what_was_put_comes_back_with_its_digest(store):
    sha256 = store.put("study/0/1/model.pt", b"weights")
    assert store.get("study/0/1/model.pt", sha256) == b"weights"


def test_a_damaged_file_is_told_from_a_whole_one(store):
    sha256 = store.put("study/0/model.pt", b"weights")
    store.put("study/0/model.pt", b"weighty")
    with pytest.raises(ArtifactError, match="was damaged"):
        store.get("study/0/model.pt", sha256)


def test_a_missing_file_is_a_sentence(store):
    with pytest.raises(ArtifactError, match="is not in"):
        store.get("study/0/model.pt")


def test_names_lists_what_is_there_and_nothing_unfinished(store):
    store.put("s/0/b.txt", b"")
    store.put("s/0/a.txt", b"")
    assert store.names("s/0") == ["a.txt", "b.txt"]
    assert store.names("s/1") == []


def test_remove_takes_a_whole_tree_and_forgives_what_is_not_there(store):
    store.put("s/0/a.txt", b"")
    store.remove("s")
    store.remove("s")
    assert store.names("s") == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a\0b", "a b", "é", "x" * 151, "\n"]
)
def test_a_name_that_could_leave_the_store_is_refused(name):
    with pytest.raises(ArtifactError, match="cannot be an artifact's name"):
        check_name(name)


@pytest.mark.parametrize("key", ["../etc/passwd", "s/../../x", "/etc/passwd", "s//x"])
def test_a_key_cannot_leave_the_store(store, key):
    with pytest.raises(ArtifactError, match="cannot be an artifact's name"):
        store.put(key, b"")


def test_an_unknown_kind_of_store_is_a_sentence():
    with pytest.raises(ArtifactError, match="cannot be used"):
        ArtifactStore("nosuch://bucket/x")
