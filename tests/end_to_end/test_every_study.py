"""`hpo worker` without a study serves every running one."""

from __future__ import annotations

from tests.end_to_end.workplace import Workplace

THREADS = """
    import os
    from pathlib import Path

    def objective(trial):
        Path(f"NAME-{os.environ['OMP_NUM_THREADS']}-{os.getpid()}").touch()
        return trial.params["x"] ** 2
"""


def test_one_worker_serves_every_running_study_in_a_process_of_its_own(place: Workplace) -> None:
    """Each with its own number of threads; one that cannot be imported here is left to others, said once."""
    for name, threads in (("one", 1), ("two", 2)):
        place.look("create", place.study(name, THREADS.replace("NAME", name), threads=threads).name).check()
    place.look("create", place.study("bad", "import nothing_of_this_name").name).check()
    worker = place.hpo("worker", "--runners", "2", "--idle-timeout", "1s", "--name", "any").check()
    assert worker.err.count("this worker leaves bad to others") == 1
    assert "nothing_of_this_name" in worker.err
    assert "nothing to claim" in worker.err
    assert "two/0 complete" in worker.err
    for name in ("one", "two"):
        assert place.show(name)["state"] == "finished"
        assert place.look("audit", name, "--format", "json").check().json["holds"]
    seen = [file.name.split("-") for file in place.path.glob("*-*-[0-9]*") if file.is_file()]
    assert {(name, threads) for name, threads, _ in seen} == {("one", "1"), ("two", "2")}
    assert not {pid for name, _, pid in seen if name == "one"} & {
        pid for name, _, pid in seen if name == "two"
    }
    assert place.show("bad")["trials"]["waiting"] == 6
    (row,) = place.look("workers", "--format", "json").check().json
    assert (row["state"], row["study"]) == ("left", None)
    assert "bad" in row["reason"]


def test_a_worker_whose_code_differs_from_one_study_serves_the_rest(place: Workplace) -> None:
    place.run(place.study("old", budget={"trials": 1})).check()
    place.look("extend", "old", "--trials", "1").check()
    file = place.path / "old.py"
    file.write_text(file.read_text() + "\n# edited\n")
    place.look("create", place.study("new", budget={"trials": 2}).name).check()
    worker = place.hpo("worker", "--runners", "1", "--idle-timeout", "1s").check()
    assert "module old was edited" in worker.err
    assert place.show("new")["trials"]["complete"] == 2
    assert place.show("old")["trials"]["waiting"] == 1
