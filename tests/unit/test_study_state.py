"""What was made of different things is never mixed in a study; a study may be moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shell_jobs import make_job, make_state, run_jobs

from eqssl_speech.error import InputError
from eqssl_speech.study.jobs import Job
from eqssl_speech.study.state import Judgement


def change_command(jobs: list[Job], directory: Path) -> None:
    jobs[1] = make_job("b/1", "true && true", "a/1")


def change_file(jobs: list[Job], directory: Path) -> None:
    (directory / "config.yaml").write_text("b: 2\n")


def change_corpus(jobs: list[Job], directory: Path) -> None:
    (directory / "corpus" / "x").mkdir(parents=True)
    (directory / "corpus" / "x" / "train.tsv").write_text("more\n")


def remove_record(jobs: list[Job], directory: Path) -> None:
    """As who trains again by hand does."""
    make_state(directory).forget(jobs[0])
    run_jobs(directory, jobs[:1])


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (change_command, ["b/1", "c/1"]),
        (change_file, ["b/2"]),
        (change_corpus, ["a/1", "b/1", "c/1", "b/2"]),
        (remove_record, ["b/1", "c/1", "b/2"]),
    ],
)
def test_what_was_made_of_something_else_is_stale_with_all_that_was_made_of_it(
    tmp_path: Path, change: Any, stale: list[str]
) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    jobs = [
        make_job("a/1", "true"),
        make_job("b/1", "true", "a/1"),
        make_job("c/1", "true", "b/1"),
        make_job("b/2", "true", "a/1", files=(tmp_path / "config.yaml",)),
    ]

    assert run_jobs(tmp_path, jobs) == []
    assert make_state(tmp_path).judge(jobs).stale == ()

    change(jobs, tmp_path)

    state = make_state(tmp_path)
    assert [job.name for job in state.judge(jobs).stale] == stale

    for job in state.judge(jobs).stale:
        state.forget(job)

    assert run_jobs(tmp_path, jobs) == []
    assert make_state(tmp_path).judge(jobs).stale == ()


def test_a_study_may_be_moved(tmp_path: Path) -> None:
    def make_jobs(directory: Path, lr: float = 0.1) -> list[Job]:
        out = directory / "out"

        return [
            make_job("a/1", f"true {out}/a/1 --config-file {directory}/w.yaml lr={lr}"),
            make_job("b/1", f"true {out}/b/1 {directory}/corpus pretrained={out}/a/1", "a/1"),
        ]

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    assert run_jobs(here, make_jobs(here)) == []

    here.rename(there)
    assert make_state(there).judge(make_jobs(there)).stale == ()
    assert len(make_state(there).judge(make_jobs(there, lr=0.2)).stale) == 2
    # Of another study.
    assert len(make_state(there).judge(make_jobs(here)).stale) == 2


def test_a_run_that_is_begun_goes_on_only_where_it_lay(tmp_path: Path) -> None:
    def make_jobs(directory: Path) -> list[Job]:
        return [make_job("a/1", f"exit 75; {directory}/out/a/1 {directory}/w.yaml")]

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    assert run_jobs(here, make_jobs(here)) == ["a/1"]
    assert make_state(here).judge(make_jobs(here)).stale == ()

    here.rename(there)
    assert len(make_state(there).judge(make_jobs(there)).stale) == 1
    assert run_jobs(there, make_jobs(there)) == ["a/1"]
    assert "was begun with other settings" in make_state(there).find("a/1", "log").read_text()


def test_what_cannot_be_removed_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rmtree(directory: Path) -> None:
        raise PermissionError(13, "Permission denied")

    jobs = [make_job("a/1", "exit 75")]
    assert run_jobs(tmp_path, jobs) == ["a/1"]
    monkeypatch.setattr("eqssl_speech.study.state.shutil.rmtree", rmtree)

    with pytest.raises(InputError, match=r"out/a/1: cannot be removed \(Permission denied\)"):
        make_state(tmp_path).forget(jobs[0])

    # It is still of something else.
    assert make_state(tmp_path).judge([make_job("a/1", "true")]).stale != ()
    assert run_jobs(tmp_path, [make_job("a/1", "true")]) == ["a/1"]


def test_what_decides_on_others_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("75")
    out = tmp_path / "out"
    jobs = [
        make_job("tune/1", f"mkdir -p {out}/tune/1; exit $(cat {tmp_path}/status)"),
        make_job("cell/1", "true", after=("tune/1",)),
    ]

    # Asked to stop before it has made anything, it goes on.
    assert run_jobs(tmp_path, jobs) == ["tune/1"]
    (out / "tune" / "1").rmdir()
    assert make_state(tmp_path).judge(jobs).stale == ()

    (tmp_path / "status").write_text("0")
    assert run_jobs(tmp_path, jobs) == []
    assert make_state(tmp_path).judge(jobs) == Judgement((), ())

    (out / "tune" / "1").rmdir()
    assert make_state(tmp_path).judge(jobs) == Judgement((jobs[0],), ("cell/1",))
