"""A study runs its jobs, goes on where it was stopped, and never mixes what was made of different things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eqssl_speech.error import InputError
from eqssl_speech.study.jobs import Job
from eqssl_speech.study.runner import StudyRunner
from eqssl_speech.study.state import StudyState

POPEN = subprocess.Popen

LOOP = "echo $$ >> {}; trap '{}' TERM; while :; do sleep 0.1; done"
"""A line of shell that says its process and what it does when it is asked to stop."""


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the command of a job be a line of shell."""

    def start(command: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
        return POPEN(["/bin/sh", "-c", command[3]], **kwargs)

    monkeypatch.setattr("eqssl_speech.study.runner.subprocess.Popen", start)


def make_job(name: str, command: str, *needs: str, **kwargs: Any) -> Job:
    return Job(name, lambda: [command], needs, **kwargs)


def make_state(directory: Path) -> StudyState:
    (directory / "corpus").mkdir(exist_ok=True)
    (directory / "corpus" / "sources.tsv").write_text("a\n")

    return StudyState(directory, directory / "corpus", directory / "out")


def run_jobs(directory: Path, jobs: list[Job]) -> list[str]:
    runner = StudyRunner(
        make_state(directory),
        num_workers=2,
        find_version=lambda: "abc",
        environment=[{}],
        out=directory / "out",
    )

    return runner.run(jobs)


def count_runs(directory: Path) -> str:
    file = directory / "runs"

    return "".join(sorted(file.read_text().split())) if file.exists() else ""


def test_a_failure_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    jobs = [
        make_job("a/1", "echo wrong >&2; exit 1"),
        make_job("b/1", "true", "a/1"),
        make_job("a/2", "true"),
        make_job("b/2", "true", "a/2"),
    ]

    assert run_jobs(tmp_path, jobs) == ["a/1"]

    state = make_state(tmp_path)
    assert state.find("a/1", "log").read_text() == "wrong\n"
    assert state.read("a/1") is None
    assert state.read("b/1") is None
    assert state.read("b/2") is not None

    # What is done is not done again; what failed is tried again, and what it was needed for goes on.
    for number, job in enumerate(jobs):
        jobs[number] = make_job(job.name, f"echo {number} >> {tmp_path}/runs", *job.needs)

    assert run_jobs(tmp_path, jobs) == []
    assert count_runs(tmp_path) == "01"

    record = state.read("a/1")
    assert record is not None
    assert [attempt["status"] for attempt in record["attempts"]] == [1, 0]
    assert record["attempts"][0]["commit"] == "abc"


def test_what_cannot_be_made_is_a_failure(tmp_path: Path) -> None:
    def make_command() -> list[str]:
        raise InputError("No run has a loss.")

    assert run_jobs(tmp_path, [Job("a/1", make_command, ()), make_job("a/2", "true", "a/1")]) == [
        "a/1"
    ]

    state = make_state(tmp_path)
    assert state.find("a/1", "log").read_text() == "No run has a loss.\n"
    assert state.find_failure("a/1") == 2
    assert state.find_failure("a/2") is None


@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 3", 3), ("kill -SEGV $$", -11), ("kill -KILL $$", -9)]
    + [(f"exit {status}", None) for status in (75, 130)]
    + [("kill -TERM $$", None)],
)
def test_what_was_asked_to_stop_has_not_failed(
    tmp_path: Path, command: str, status: int | None
) -> None:
    assert run_jobs(tmp_path, [make_job("a/1", command)]) == ["a/1"]
    assert make_state(tmp_path).find_failure("a/1") == status


def test_a_line_that_a_full_disk_has_torn_is_no_attempt(tmp_path: Path) -> None:
    run_jobs(tmp_path, [make_job("a/1", "exit 1")])
    state = make_state(tmp_path)

    with state.find("a/1", "jsonl").open("a") as stream:
        stream.write('{"commit": "a')

    assert state.find_failure("a/1") == 1

    # Nor does it take the next with it.
    run_jobs(tmp_path, [make_job("a/1", "exit 3")])
    assert state.find_failure("a/1") == 3

    state.find("a/1", "jsonl").write_text("")
    assert state.find_failure("a/1") is None


@pytest.mark.parametrize(("status", "is_result"), [(3, True), (1, False), (2, False), (75, False)])
def test_only_divergence_is_a_result(tmp_path: Path, status: int, is_result: bool) -> None:
    jobs = [make_job("a/1", f"exit {status}", may_diverge=True), make_job("a/2", "exit 3")]

    assert run_jobs(tmp_path, jobs) == (["a/2"] if is_result else ["a/1", "a/2"])
    assert (make_state(tmp_path).read("a/1") is not None) == is_result


def test_times_of_all_attempts_count(tmp_path: Path) -> None:
    assert run_jobs(tmp_path, [make_job("a/1", "sleep 0.5; exit 75")]) == ["a/1"]
    assert run_jobs(tmp_path, [make_job("a/1", "sleep 0.5")]) == []

    record = make_state(tmp_path).read("a/1")
    assert record is not None
    assert record["wall_s"] >= 1.0


def change_command(jobs: list[Job], directory: Path) -> None:
    jobs[1] = make_job("b/1", "true && true", "a/1")


def change_file(jobs: list[Job], directory: Path) -> None:
    (directory / "config.yaml").write_text("b: 2\n")


def change_corpus(jobs: list[Job], directory: Path) -> None:
    (directory / "corpus" / "x").mkdir(parents=True)
    (directory / "corpus" / "x" / "train.tsv").write_text("more\n")


def remove_record(jobs: list[Job], directory: Path) -> None:
    """As who trains again by hand does."""
    state = make_state(directory)
    state.forget(jobs[0])
    time.sleep(0.2)
    run_jobs(directory, [make_job("a/1", "sleep 0.3")])


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (change_command, ["b/1", "c/1"]),
        (change_file, ["b/2"]),
        (change_corpus, ["a/1", "b/1", "c/1", "b/2"]),
        (remove_record, ["a/1", "b/1", "c/1", "b/2"]),
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
    assert make_state(tmp_path).list_stale(jobs) == []

    change(jobs, tmp_path)

    state = make_state(tmp_path)
    assert [job.name for job in state.list_stale(jobs)] == stale

    for job in state.list_stale(jobs):
        state.forget(job)

    assert run_jobs(tmp_path, jobs) == []
    assert make_state(tmp_path).list_stale(jobs) == []


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
    assert make_state(there).list_stale(make_jobs(there)) == []
    assert len(make_state(there).list_stale(make_jobs(there, lr=0.2))) == 2
    # Of another study.
    assert len(make_state(there).list_stale(make_jobs(here))) == 2


def test_a_file_that_is_changed_while_a_job_reads_it_makes_it_stale(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.touch()
    jobs = [make_job("a/1", f"echo more > {config}", files=(config,))]

    assert run_jobs(tmp_path, jobs) == []
    assert make_state(tmp_path).list_stale(jobs) == jobs


def test_what_was_begun_with_something_else_is_stale_too(tmp_path: Path) -> None:
    begun = make_job("b/1", "exit 75", "a/1")
    assert run_jobs(tmp_path, [make_job("a/1", "true"), begun]) == ["b/1"]

    out = tmp_path / "out"
    (out / "b" / "1").mkdir(parents=True)
    (out / "b" / "1" / "checkpoint").touch()

    # What is asked to stop goes on with the same.
    assert make_state(tmp_path).list_stale([begun]) == []

    jobs = [make_job("a/1", "true"), make_job("b/1", "true", "a/1"), make_job("c/1", "true")]
    state = make_state(tmp_path)
    assert state.list_stale(jobs) == [jobs[1]]

    state.forget(jobs[1])
    assert not (out / "b" / "1").exists()
    assert state.list_stale(jobs) == []
    assert run_jobs(tmp_path, jobs) == []
    assert not state.find("b/1", "begun").exists()


def test_one_study_at_a_time(tmp_path: Path) -> None:
    state = make_state(tmp_path)

    with state.lock(), pytest.raises(InputError, match="another `eqssl study`, or a job that one"):
        run_jobs(tmp_path, [make_job("a/1", "true")])

    assert run_jobs(tmp_path, [make_job("a/1", "true")]) == []


PROGRAM = """
import subprocess, sys
from pathlib import Path
import eqssl_speech.study.runner as runner
from eqssl_speech.study.jobs import Job
from eqssl_speech.study.state import StudyState

popen = subprocess.Popen
runner.subprocess.Popen = lambda command, **kw: popen(["/bin/sh", "-c", command[3]], **kw)
out = Path(sys.argv[1])
runner.StudyRunner(
    StudyState(out, out, out), num_workers=2, find_version=lambda: None, environment=[{}], out=out,
    on_progress=lambda p: print(*p.running, flush=True),
).run([Job(name, lambda: [sys.argv[2]]) for name in ("a/1", "a/2")])
"""


def start_study(directory: Path, command: str) -> subprocess.Popen[str]:
    process = POPEN(
        [sys.executable, "-c", PROGRAM, directory, command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().split() == ["a/1", "a/2"]

    return process


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False

    return True


def read_pids(file: Path) -> list[int]:
    while not file.exists() or len(file.read_text().split()) < 2:
        time.sleep(0.05)

    return [int(pid) for pid in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_study_that_is_asked_to_stop_stops_its_jobs(
    tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = start_study(out, LOOP.format(tmp_path / "pids", "exit 75"))
    pids = read_pids(tmp_path / "pids")

    os.kill(process.pid, number)
    _, error = process.communicate(timeout=300)

    assert "KeyboardInterrupt" in error
    assert not any(map(is_alive, pids))
    # They go on with the next.
    assert StudyState(out, out, out).read("a/1") is None
    assert '"status": 75' in StudyState(out, out, out).find("a/1", "jsonl").read_text()


def test_who_asks_twice_does_not_wait(tmp_path: Path) -> None:
    process = start_study(tmp_path / "out", LOOP.format(tmp_path / "pids", ""))
    pids = read_pids(tmp_path / "pids")

    os.kill(process.pid, signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=300)

    assert not any(map(is_alive, pids))
    out = tmp_path / "out"
    assert StudyState(out, out, out).find_failure("a/1") is None


def test_jobs_of_a_killed_study_keep_others_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_study(out, f"echo $$ >> {tmp_path}/pids; exec sleep 600")
    pids = read_pids(tmp_path / "pids")

    process.kill()
    process.communicate(timeout=300)

    try:
        with (
            pytest.raises(InputError, match="a job that one has left behind"),
            StudyState(out, out, out).lock(),
        ):
            pass
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    deadline = time.monotonic() + 300
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)

    with StudyState(out, out, out).lock():
        pass
