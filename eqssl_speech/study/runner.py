"""Runs the jobs of a study, several at once, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, final

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file
from eqssl_speech.study.jobs import Job

STATE_DIRECTORY: Final = "state"
"""Where it says of each job what was run, how long it took and how it ended; its output is beside it."""

_POLL_S: Final = 0.2


@final
@dataclass
class StudyProgress:
    """How far a study is."""

    num_done: int
    """Jobs that are done, in this run or before."""

    num_jobs: int
    running: tuple[str, ...] = ()
    failed: list[str] = field(default_factory=list)

    time_left_s: float | None = None
    """How long the rest takes, by the jobs of each kind that are done; ``None`` before one of each is."""


@final
@dataclass(frozen=True)
class _Running:
    job: Job
    command: list[str]
    process: subprocess.Popen[bytes]
    start: float


@final
class StudyRunner:
    """Runs jobs as processes of `eqssl`, as many at once as there are workers."""

    def __init__(
        self,
        out: Path,
        *,
        num_workers: int,
        commit: str | None,
        environment: Sequence[Mapping[str, str]],
        on_progress: Callable[[StudyProgress], None] = lambda _: None,
    ) -> None:
        """
        :param out: The directory of the study.
        :param num_workers: How many jobs run at once.
        :param commit: The version of the code, which is written down with each job.
        :param environment: Additional variables of the jobs of each worker.
        :param on_progress: Is told whenever a job starts or ends.
        """
        self._out = out
        self._num_workers = num_workers
        self._commit = commit
        self._environment = environment
        self._on_progress = on_progress
        self._stop: signal.Signals | None = None

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run all jobs that are not done.

        A job that fails is named, and those that need it are left out; the others go on.

        :param jobs: The jobs, each after those that it needs.
        :returns: The names of the jobs that failed.
        :raises InputError: If a job was done with another command.
        :raises KeyboardInterrupt: If the study was asked to stop; its jobs have been, and have ended.
        """
        records = {job.name: read_record(self._out, job.name) for job in jobs}
        done = {name for name, record in records.items() if record is not None}

        self._require_same_commands(jobs, records)

        times: dict[str, list[float]] = {}
        for job in jobs:
            record = records[job.name]
            if record is not None:
                times.setdefault(job.kind, []).append(record["wall_s"])

        pending = [job for job in jobs if job.name not in done]
        running: dict[int, _Running] = {}
        progress = StudyProgress(len(done), len(jobs))

        with self._handle_signals():
            while pending or running:
                if self._stop is not None:
                    self._end(running)
                    raise KeyboardInterrupt

                changed = self._start(pending, running, done, progress.failed)

                for worker, active in list(running.items()):
                    job, status = active.job, active.process.poll()
                    if status is None:
                        continue

                    changed = True
                    del running[worker]

                    # What was stopped by somebody else is tried again with the next run of the study.
                    if status == 0 or self._is_result(job, status):
                        wall_s = time.monotonic() - active.start
                        done.add(job.name)
                        times.setdefault(job.kind, []).append(wall_s)
                        self._write_record(job, active.command, status, wall_s)
                    else:
                        progress.failed.append(job.name)

                if changed:
                    progress.num_done = len(done)
                    progress.running = tuple(active.job.name for active in running.values())
                    progress.time_left_s = _estimate(
                        pending, running.values(), times, self._num_workers
                    )
                    self._on_progress(progress)
                else:
                    if pending and not running:
                        break  # All that is left needs what has failed.

                    time.sleep(_POLL_S)

        return progress.failed

    def _is_result(self, job: Job, status: int) -> bool:
        """Say whether a job that failed says something: it began, which shows in its directory, and came to nothing."""
        return job.may_fail and status in (1, 2) and (self._out / job.name).exists()

    def _start(
        self,
        pending: list[Job],
        running: dict[int, _Running],
        done: set[str],
        failed: list[str],
    ) -> bool:
        changed = False

        for worker in range(self._num_workers):
            if worker in running:
                continue

            job = next((j for j in pending if all(need in done for need in j.needs)), None)
            if job is None:
                break

            pending.remove(job)
            changed = True

            try:
                command = job.make_command()
            except InputError as ex:
                self._log_file(job.name).write_text(f"{ex}\n", encoding="utf-8")
                failed.append(job.name)
                continue

            process = self._spawn(job, command, worker)
            running[worker] = _Running(job, command, process, time.monotonic())

        return changed

    def _spawn(self, job: Job, command: list[str], worker: int) -> subprocess.Popen[bytes]:
        environment = os.environ | self._environment[worker % len(self._environment)]

        with self._log_file(job.name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "eqssl_speech", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # A Ctrl-C of the terminal is passed on in order, as the end of a run.
                start_new_session=True,
            )

    def _end(self, running: Mapping[int, _Running]) -> None:
        """Ask the running jobs to stop, which trainings do with a checkpoint, and wait for them."""
        for active in running.values():
            active.process.send_signal(signal.SIGTERM)

        for active in running.values():
            active.process.wait()

    @contextmanager
    def _handle_signals(self) -> Iterator[None]:
        def stop(number: int, _: object) -> None:
            self._stop = signal.Signals(number)

        originals = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}

        try:
            yield
        finally:
            for number, original in originals.items():
                signal.signal(number, original)

    def _log_file(self, name: str) -> Path:
        file = find_log(self._out, name)
        file.parent.mkdir(parents=True, exist_ok=True)

        return file

    def _write_record(self, job: Job, command: list[str], status: int, wall_s: float) -> None:
        record = {
            "command": ["eqssl", *command],
            "commit": self._commit,
            "status": status,
            "wall_s": round(wall_s, 1),
        }
        replace_file(
            _find_record(self._out, job.name),
            (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode(),
            durable=True,
        )

    def _require_same_commands(
        self, jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any] | None]
    ) -> None:
        for job in jobs:
            record = records[job.name]
            if record is None:
                continue

            command = ["eqssl", *job.make_command()]
            if record["command"] == command:
                continue

            before, now = (
                next((w for w in a if w not in b), "fewer words")
                for a, b in ((record["command"], command), (command, record["command"]))
            )
            raise InputError(
                f"{self._out / job.name}: was made with `{before}`, but the study says `{now}` now; remove it and "
                f"{_find_record(self._out, job.name)}, or choose another directory."
            )


def read_record(out: Path, name: str) -> Mapping[str, Any] | None:
    """Read how a job was run: its ``command``, ``commit``, exit ``status`` and ``wall_s``.

    :param out: The directory of the study.
    :param name: The job.
    :returns: ``None`` if it is not done.
    """
    file = _find_record(out, name)

    if not file.is_file():
        return None

    record = json.loads(file.read_text(encoding="utf-8"))

    assert isinstance(record, dict)

    return record


def find_log(out: Path, name: str) -> Path:
    """Return where the output of a job is."""
    file = _find_record(out, name)

    return file.with_name(f"{file.stem}.log")


def _find_record(out: Path, name: str) -> Path:
    file = out / STATE_DIRECTORY / name

    # Names have dots, of numbers.
    return file.with_name(f"{file.name}.json")


def _estimate(
    pending: Sequence[Job],
    running: Iterable[_Running],
    times: Mapping[str, Sequence[float]],
    num_workers: int,
) -> float | None:
    jobs = [*pending, *(active.job for active in running)]

    if any(job.kind not in times for job in jobs):
        return None

    spent = sum(time.monotonic() - active.start for active in running)
    total = sum(median(times[job.kind]) for job in jobs)

    return max(0.0, total - spent) / num_workers
