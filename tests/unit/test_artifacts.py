"""Files kept with trials: whole or not at all, never outside the store."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from storage.database.errors import ArtifactError, ArtifactsAwayError, BadArtifactUrlError
from storage.files.artifacts import ArtifactStore, check_name, may_pass, sentence


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


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:s3cr3t@bucket/x",
        "ftp://me:s3cr3t@host/x",
        "s3://bucket/x?secret=s3cr3t",
        "simplecache::ftp://me:s3cr3t@host/x",
        "zip://*.pt::filecache::ftp://me:s3cr3t@host/x.zip",
        "blockcache::s3://bucket/x?secret=s3cr3t",
        "ftp://[me:s3cr3t@host/x",
    ],
)
def test_credentials_belong_into_the_environment_and_are_not_repeated(url):
    with pytest.raises(BadArtifactUrlError, match=r"environment|cannot be read") as refused:
        ArtifactStore(url)
    assert "s3cr3t" not in str(refused.value)


def test_a_driver_that_is_not_installed_is_told_by_its_extra():
    """And nothing of it is imported for a directory."""
    code = """
import sys
from storage.files.artifacts import ArtifactStore
ArtifactStore("file:///tmp")
assert not {"fsspec", "s3fs", "botocore"} & set(sys.modules)
sys.modules["s3fs"] = None
try:
    ArtifactStore("s3://bucket/x")
except Exception as error:
    print(type(error).__name__, error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("BadArtifactUrlError")
    assert "pip install 'hpo[s3]'" in found.stdout


def test_an_error_is_told_without_what_the_environment_keeps_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-value")
    told = sentence(OSError("no: s3cr3t-value at http://me:pass@host/x\nmore"))
    assert told == "no: *** at http://***@host/x"


def test_a_refused_connection_passes_and_a_full_disk_does_not():
    assert may_pass(ConnectionRefusedError())
    assert may_pass(TimeoutError())
    assert may_pass(OSError(errno.ESTALE, "stale"))
    assert not may_pass(OSError(errno.ENOSPC, "full"))
    assert not may_pass(PermissionError())


def test_a_store_that_is_away_is_asked_again_until_patience_is_over(tmp_path, monkeypatch, caplog):
    store = ArtifactStore(tmp_path.as_uri(), patience=30)
    answers = [ConnectionResetError("cut"), TimeoutError("slow"), b"back"]

    def read(_key):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(store._files, "read", read)
    assert store.get("s/x") == b"back"
    assert [record.getMessage().rpartition(" is ")[2] for record in caplog.records] == [
        "away (try 1): cut",
        "away (try 2): slow",
    ]
    answers[:] = [ConnectionResetError("cut")]
    store.patience = 0
    with pytest.raises(ArtifactsAwayError, match="cannot read s/x"):
        store.get("s/x")


def test_all_files_lists_a_tree_and_nothing_unfinished(store):
    for key in ("s/0/a.txt", "s/1/b.txt", "t/c.txt"):
        store.put(key, b"")
    assert store.all_files("s") == ["s/0/a.txt", "s/1/b.txt"]
    assert store.all_files("u") == []
