"""A study runs its jobs, and goes on where it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shell_jobs import POPEN, make_job, make_state, run_jobs

from eqssl_speech.error import InputError
from eqssl_speech.study.jobs import Job
from eqssl_speech.study.state import StudyState

LOOP = "trap '{1}' TERM; echo $$ >> {0}; while :; do sleep 0.1; done"
"""A line of shell that says its process and what it does when it is asked to stop."""


def count_runs(directory: Path) -> str:
    file = directory / "runs"

    return "".join(sorted(file.read_text().split())) if file.exists() else ""


def test_a_failure_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("1")
    jobs = [
        make_job("a/1", f"echo wrong >&2; exit $(cat {tmp_path}/status)"),
        make_job("b/1", f"echo 1 >> {tmp_path}/runs", "a/1"),
        make_job("a/2", f"echo 2 >> {tmp_path}/runs"),
        make_job("b/2", f"echo 3 >> {tmp_path}/runs", "a/2"),
    ]

    assert run_jobs(tmp_path, jobs) == ["a/1"]

    state = make_state(tmp_path)
    assert state.find("a/1", "log").read_text() == "wrong\n"
    assert state.read("a/1") is None
    assert state.read("b/1") is None
    assert state.read("b/2") is not None

    # What is done is not done again; what failed is tried again, and what it was needed for goes on.
    assert count_runs(tmp_path) == "23"
    (tmp_path / "status").write_text("0")

    assert run_jobs(tmp_path, jobs) == []
    assert count_runs(tmp_path) == "123"

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
    jobs = [make_job("a/1", f"exit $(cat {tmp_path}/status)")]
    (tmp_path / "status").write_text("1")
    run_jobs(tmp_path, jobs)
    state = make_state(tmp_path)

    with state.find("a/1", "jsonl").open("a") as stream:
        stream.write('{"commit": "a')

    assert state.find_failure("a/1") == 1

    # Nor does it take the next with it.
    (tmp_path / "status").write_text("3")
    run_jobs(tmp_path, jobs)
    assert state.find_failure("a/1") == 3

    state.find("a/1", "jsonl").write_text("")
    assert state.find_failure("a/1") is None


@pytest.mark.parametrize(("status", "is_result"), [(3, True), (1, False), (2, False), (75, False)])
def test_only_divergence_is_a_result(tmp_path: Path, status: int, is_result: bool) -> None:
    jobs = [make_job("a/1", f"exit {status}", may_diverge=True), make_job("a/2", "exit 3")]

    assert run_jobs(tmp_path, jobs) == (["a/2"] if is_result else ["a/1", "a/2"])
    assert (make_state(tmp_path).read("a/1") is not None) == is_result


def test_times_of_all_attempts_count(tmp_path: Path) -> None:
    jobs = [make_job("a/1", f"sleep 0.5; exit $(cat {tmp_path}/status)")]

    for status, failed in (("75", ["a/1"]), ("0", [])):
        (tmp_path / "status").write_text(status)
        assert run_jobs(tmp_path, jobs) == failed

    record = make_state(tmp_path).read("a/1")
    assert record is not None
    assert record["wall_s"] >= 1.0


def test_a_full_disk_ends_a_study_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_attempt(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StudyState, "add_attempt", add_attempt)
    jobs = [make_job("a/1", "true"), make_job("a/2", "exec sleep 600")]

    with pytest.raises(InputError, match=r"the study cannot go on \(No space left on device\)"):
        run_jobs(tmp_path, jobs)

    # Its jobs have been stopped all the same.
    with make_state(tmp_path).lock():
        pass


def test_a_file_that_is_changed_while_a_job_reads_it_makes_it_stale(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.touch()
    jobs = [make_job("a/1", f"echo more > {config}", files=(config,))]

    assert run_jobs(tmp_path, jobs) == []
    assert make_state(tmp_path).judge(jobs).stale == tuple(jobs)


def test_what_was_begun_with_something_else_is_stale_too(tmp_path: Path) -> None:
    begun = make_job("b/1", "exit 75", "a/1")
    assert run_jobs(tmp_path, [make_job("a/1", "true"), begun]) == ["b/1"]

    out = tmp_path / "out"
    (out / "b" / "1").mkdir(parents=True)
    (out / "b" / "1" / "checkpoint").touch()

    # What is asked to stop goes on with the same.
    assert make_state(tmp_path).judge([begun]).stale == ()

    jobs = [make_job("a/1", "true"), make_job("b/1", "true", "a/1"), make_job("c/1", "true")]
    state = make_state(tmp_path)
    assert state.judge(jobs).stale == (jobs[1],)

    state.forget(jobs[1])
    assert not (out / "b" / "1").exists()
    assert state.judge(jobs).stale == ()
    assert run_jobs(tmp_path, jobs) == []
    assert not state.find("b/1", "begun").exists()


def test_one_study_at_a_time(tmp_path: Path) -> None:
    state = make_state(tmp_path)

    with state.lock(), pytest.raises(InputError, match="another `eqssl study`, or a job that one"):
        run_jobs(tmp_path, [make_job("a/1", "true")])

    assert run_jobs(tmp_path, [make_job("a/1", "true")]) == []


PROGRAM = """
import signal, subprocess, sys
from pathlib import Path
import eqssl_speech.study.runner as runner
from eqssl_speech.study.jobs import Job
from eqssl_speech.study.state import StudyState

# Whatever started the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, getattr(signal, sys.argv[3]))

popen = subprocess.Popen
runner.subprocess.Popen = lambda command, **kw: popen(["/bin/sh", "-c", command[3]], **kw)
out = Path(sys.argv[1])
runner.StudyRunner(
    StudyState(out, out, out), num_workers=2, find_version=lambda: None, environment=[{}], out=out,
    on_progress=lambda p: print(*p.running, flush=True),
).run([Job(name, lambda: [sys.argv[2]]) for name in ("a/1", "a/2")])
"""


def start_study(directory: Path, command: str, hang_up: str = "SIG_DFL") -> subprocess.Popen[str]:
    process = POPEN(
        [sys.executable, "-c", PROGRAM, directory, command, hang_up],
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
    deadline = time.monotonic() + 300

    while not file.exists() or len(file.read_text().split()) < 2:
        assert time.monotonic() < deadline
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

    try:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=300)

        assert not any(map(is_alive, pids))
    finally:
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)

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

    while True:
        try:
            with StudyState(out, out, out).lock():
                break
        except InputError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_hang_up_that_is_ignored_stops_nothing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"echo $$ >> {pids}; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"
    process = start_study(tmp_path / "out", command, "SIG_IGN")
    read_pids(pids)

    os.kill(process.pid, signal.SIGHUP)
    time.sleep(0.5)
    (tmp_path / "go").touch()
    process.communicate(timeout=300)

    assert process.returncode == 0
