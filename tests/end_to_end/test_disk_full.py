"""A disk that is full costs the file being written, and nothing else."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.workplace import SECONDS, Workplace
from tests.support.command import COMMAND, HpoResult, hpo_environment

ROOM = 1_500_000  # bytes a file may have: enough for the database, too little for a report


def hpo_with_little_room(place: Workplace, *args: str) -> HpoResult:
    """Run the command where every file larger than ROOM is refused by the kernel."""
    found = subprocess.run(
        [*COMMAND, *args],
        cwd=place.path,
        env=hpo_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM)),
    )
    return HpoResult(args, found.returncode, found.stdout, found.stderr)


@pytest.fixture(scope="module")
def searched(shared_place: Workplace) -> Workplace:
    """A place where a run met a full disk when it came to write its report."""
    spec = shared_place.study("full")
    result = hpo_with_little_room(shared_place, "run", spec.name, "--runners", "1").check(1)
    assert "Could not write the report" in result.err
    assert "File too large" in result.err
    assert "Traceback" not in result.err
    assert "best trial" in result.out, "what was found is said all the same"
    return shared_place


IN_A_SMALL_PLACE = """
import sys
from pathlib import Path
from hpo.files import write_whole
from hpo.runner.values import told
from storage.files.artifacts import ArtifactStore

small = Path(sys.argv[1])
try:
    (small / "data.bin").write_bytes(b"x" * 200_000)
except OSError as error:
    print(told(error))
for write in (
    lambda: ArtifactStore(f"file://{small}").put("a/b", b"x" * 200_000),
    lambda: write_whole(small / "report.html", "x" * 200_000, "report"),
):
    try:
        write()
    except Exception as error:
        print(error)
"""


def test_the_file_system_that_is_full_is_told_with_what_it_holds(tmp_path: Path) -> None:
    """Of an objective's own writes, of the study's files and of ours: an errno says neither."""
    mounted = 'mount -t tmpfs -o size=128k tmpfs small && exec "$0" -c "$1" small'
    (tmp_path / "small").mkdir()
    words = ["unshare", "-Urm", "sh", "-c", mounted, sys.executable, IN_A_SMALL_PLACE]
    env = {**hpo_environment(), "PYTHONPATH": str(Path.cwd())}
    try:
        found = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if "unshare" in found.stderr or "mount" in found.stderr:
        pytest.skip(f"no mount namespace here: {found.stderr.strip()}")
    told = f"Full: the file system at {tmp_path / 'small'} holds 128.0 KiB, 0 bytes are free"
    assert found.stdout.count(told) == 3, found
    assert "cannot write a/b" in found.stdout
    assert "Could not write the report" in found.stdout


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "report" in path.name or ".part" in path.name]


def test_a_report_that_does_not_fit_leaves_no_half_of_itself(searched: Workplace) -> None:
    assert leftovers(searched.path) == []


def test_no_trial_is_lost_and_the_report_can_be_written_later(searched: Workplace) -> None:
    assert searched.show("full")["trials"]["complete"] == 6
    out = searched.hpo("report", "full").check().out
    assert (searched.path / out.strip()).stat().st_size > ROOM


def test_an_older_report_stays_whole_when_the_new_one_does_not_fit(searched: Workplace) -> None:
    old = searched.write("kept.html", "the old report")
    result = hpo_with_little_room(searched, "report", "full", "-o", "kept.html").check(1)
    assert "is unchanged" in result.err
    assert old.read_text() == "the old report"


def test_a_directory_as_the_report_is_refused(searched: Workplace) -> None:
    (searched.path / "folder.html").mkdir()
    err = searched.hpo("report", "full", "-o", "folder.html").check(2).err
    assert "it is a directory" in err
