"""What a trial puts into the store can lead nobody out of it: links are not followed, pipes not opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from hpo.launch.base import last_lines, read_beside
from hpo.runner import results
from hpo.runner.output import captured
from storage.database.errors import ArtifactError
from storage.database.records import TicketState
from storage.files import checkpoints
from storage.files.artifacts import ArtifactStore

SECRET = b"the dashboard's token"
KEY = "study/3/1/log.txt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store's directory, and beside it everything under `KEY` once more, with a secret in it."""
    (tmp_path / "outside" / KEY).parent.mkdir(parents=True)
    (tmp_path / "outside" / KEY).write_bytes(SECRET)
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def outside(root: Path) -> Path:
    return root.parent / "outside"


@pytest.fixture
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root.as_uri())


PLACES = ["study", "study/3", "study/3/1", KEY]


def link(root: Path, outside: Path, key: str) -> Path:
    """Make `key` a link to its like outside."""
    place = root / key
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside / key)
    return place


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_read_through_a_link_wherever_on_the_way_it_is(store, root, outside, place):
    link(root, outside, place)
    with pytest.raises(ArtifactError, match=f"{Path(place).name} is a link") as refused:
        store.get(KEY)
    assert SECRET.decode() not in str(refused.value)


@pytest.mark.parametrize("target", ["../../../../outside/" + KEY, "log.txt", "nowhere"])
def test_relative_circular_and_dangling_links_are_not_followed_either(store, root, target):
    (root / KEY).parent.mkdir(parents=True)
    (root / KEY).symlink_to(target)
    with pytest.raises(ArtifactError, match="is a link"):
        store.get(KEY)


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_only_regular_files_are_read_and_nobody_waits_for_a_pipe(store, root, kind, monkeypatch):
    place = root / KEY
    place.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        monkeypatch.chdir(place.parent)  # the address of a socket is short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place.name)
    with pytest.raises(ArtifactError, match="not a regular file"):
        store.get(KEY)
    if kind != "folder":
        assert store.names("study/3/1") == []
        assert store.all_files("study") == []


@pytest.mark.parametrize("place", PLACES[:-1])
def test_nothing_is_written_or_removed_through_a_linked_folder(store, root, outside, place):
    link(root, outside, place)
    for change in (
        lambda: store.put(KEY, b"new"),
        lambda: store.remove(KEY),
        lambda: store.open_to_append(KEY),
    ):
        with pytest.raises(ArtifactError, match="is a link"):
            change()
    assert (outside / KEY).read_bytes() == SECRET
    assert [file.name for file in (outside / KEY).parent.iterdir()] == ["log.txt"]


def test_writing_replaces_a_link_and_leaves_its_target_alone(store, root, outside):
    link(root, outside, KEY)
    store.put(KEY, b"new")
    assert store.get(KEY) == b"new"
    assert (outside / KEY).read_bytes() == SECRET


@pytest.mark.parametrize("place", PLACES)
def test_removing_a_link_leaves_its_target_alone(store, root, outside, place):
    made = link(root, outside, place)
    store.remove(place)
    assert not made.is_symlink()
    assert (outside / KEY).read_bytes() == SECRET


def test_removing_a_tree_leaves_alone_what_links_in_it_lead_to(store, root, outside):
    store.put("study/3/2/a.txt", b"")
    link(root, outside, "study/3/1")
    store.remove("study")
    assert list(root.iterdir()) == []
    assert (outside / KEY).read_bytes() == SECRET


def test_listings_leave_links_out_and_do_not_go_through_them(store, root, outside):
    store.put("study/3/2/a.txt", b"")
    link(root, outside, "study/3/1")
    (root / "study/3/2/b.txt").symlink_to(outside / KEY)
    assert store.names("study/3") == ["2"]
    assert store.names("study/3/2") == ["a.txt"]
    assert store.all_files("study") == ["study/3/2/a.txt"]


def test_folders_nested_without_end_hold_nobody_up(store, root):
    store.put("study/3/1/a.txt", b"")
    here = os.open(root / "study/3", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert store.all_files("study") == ["study/3/1/a.txt"]
    with suppress(ArtifactError):  # Python 3.13 removes even these; no other error is right
        store.remove("study")
    subprocess.run(["rm", "-rf", root / "study"], check=True)  # pytest could not


def test_the_root_and_what_leads_to_it_may_be_links(root, tmp_path):
    """They are the owner's: a disk with more room, say."""
    (tmp_path / "disk").symlink_to(root.parent)
    (tmp_path / "linked").symlink_to(tmp_path / "disk" / "store")
    store = ArtifactStore((tmp_path / "linked").as_uri())
    store.put(KEY, b"epoch 1")
    assert store.get(KEY) == b"epoch 1"
    assert store.all_files("study") == [KEY]
    store.remove("study")
    assert list(root.iterdir()) == []


def test_a_folder_that_becomes_a_link_between_check_and_use_leads_nowhere(store, root, outside, monkeypatch):
    """Each part is opened relative to the one before, so an exchange in the middle is noticed or harmless."""
    store.put(KEY, b"epoch 1")
    opened = os.open

    def exchange(path, *args, **options):
        if path == "log.txt":  # the folder is held by now
            (root / "study").rename(root / "moved")
            (root / "study").symlink_to(outside / "study")
            monkeypatch.setattr(os, "open", opened)
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", exchange)
    assert store.get(KEY) == b"epoch 1"


def test_an_attempts_log_is_not_written_through_a_link(store, root, outside, capfd):
    link(root, outside, KEY)
    with captured(store, "study/3/1", 100_000):
        print("epoch 1", file=sys.stderr)
    assert "no log for this attempt" in capfd.readouterr().err
    assert (outside / KEY).read_bytes() == SECRET


def test_a_checkpoint_that_is_a_link_is_passed_over(store, root):
    store.put("study/3/1/" + checkpoints.file_name(1, b"first"), b"first")
    planted = root.parent / "planted"
    planted.write_bytes(b"second")
    (root / "study/3/1" / checkpoints.file_name(2, b"second")).symlink_to(planted)
    found = checkpoints.newest(store, "study/3")
    assert found is not None
    assert found.content == b"first"


def test_a_kept_result_that_is_a_link_is_not_delivered(store, root):
    results.keep(store, "study/3", 1, results.Finished(TicketState.COMPLETE, (1.0,), None, {}))
    (root / "study/3/1" / results.FILE).rename(root.parent / "result")
    (root / "study/3/1" / results.FILE).symlink_to(root.parent / "result")
    assert results.find(store, "study/3", range(1, 2), 1) is None


def test_a_launched_workers_output_is_not_read_through_a_link(tmp_path):
    """A worker's own trials could put one there."""
    (tmp_path / "secret").write_bytes(SECRET)
    log = tmp_path / "worker-0.log"
    assert last_lines(log, 5) == ""
    log.symlink_to(tmp_path / "secret")
    assert SECRET.decode() not in last_lines(log, 5)
    assert "is a link" in last_lines(log, 5)
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(OSError, match="not a regular file"):
        read_beside(log)
    log.unlink()
    log.write_bytes(b"one\ntwo\n")
    assert last_lines(log, 1) == "two\n"
