"""Runs the jobs of a study, several at once, and goes on where it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, final

from eqssl_speech.error import InputError
from eqssl_speech.study.jobs import Job
from eqssl_speech.study.state import Attempt, StudyState
from eqssl_speech.tasks.errors import DIVERGED
from eqssl_speech.tasks.signals import STOPPED

_POLL_S: Final = 0.2

_REPEAT_S: Final = 0.5
"""How long after a signal another is no more than the same."""

_WRONG_INPUT: Final = 2
"""The exit status of `eqssl` if what it is given is wrong."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    process: subprocess.Popen[bytes]
    version: str | None
    start: float


@final
class StudyRunner:
    """Runs jobs as processes of `eqssl`, as many at once as there are workers."""

    def __init__(
        self,
        state: StudyState,
        *,
        num_workers: int,
        find_version: Callable[[], str | None],
        environment: Sequence[Mapping[str, str]],
        out: Path,
        on_progress: Callable[[StudyProgress], None] = lambda _: None,
    ) -> None:
        """
        :param state: The records of the jobs.
        :param num_workers: How many jobs run at once.
        :param find_version: Returns the version of the code, which is written down with each attempt.
        :param environment: Additional variables of the jobs of each worker.
        :param out: The directory of the study.
        :param on_progress: Is told whenever a job starts or ends.
        """
        self._state = state
        self._num_workers = num_workers
        self._find_version = find_version
        self._environment = environment
        self._out = out
        self._on_progress = on_progress
        self._num_signals = 0
        self._running: dict[int, _Running] = {}

    def run(self, jobs: Sequence[Job]) -> list[str]:
        """Run all jobs that are not done.

        A job that fails is named, and those that need it are left out; the others go on.

        :param jobs: The jobs, each after those that it needs.
        :returns: The names of the jobs that failed.
        :raises InputError: If another study is at work in the directory, or it cannot be written.
        :raises KeyboardInterrupt: If the study was asked to stop; its jobs have been, and have ended.
        """
        with self._state.lock() as lock, self._handle_signals():
            try:
                return self._run(jobs, lock)
            except OSError as ex:
                raise InputError(
                    f"{ex.filename or self._out}: the study cannot go on ({ex.strerror}); mend that, such as by making "
                    "room, and start it again."
                ) from None
            finally:
                self._end()

    def _run(self, jobs: Sequence[Job], lock: int) -> list[str]:
        times: dict[str, list[float]] = {}
        done = set()

        for job in jobs:
            record = self._state.read(job.name)
            if record is not None:
                done.add(job.name)
                times.setdefault(job.kind, []).append(record["wall_s"])

        pending = [job for job in jobs if job.name not in done]
        progress = StudyProgress(len(done), len(jobs))

        while pending or self._running:
            if self._num_signals > 0:
                raise KeyboardInterrupt

            changed = self._start(pending, done, progress.failed, lock)

            for worker, active in list(self._running.items()):
                status = active.process.poll()
                if status is None:
                    continue

                changed = True
                del self._running[worker]

                if self._finish(active, status):
                    done.add(active.job.name)
                    times.setdefault(active.job.kind, []).append(time.monotonic() - active.start)
                else:
                    progress.failed.append(active.job.name)

            if changed:
                running = list(self._running.values())
                progress.num_done = len(done)
                progress.running = tuple(active.job.name for active in running)
                progress.time_left_s = _estimate(pending, running, times, self._num_workers)
                self._on_progress(progress)
            elif not self._running:
                break  # All that is left needs what has failed.
            else:
                time.sleep(_POLL_S)

        # Asked while the last was ending; there may be more to run after these.
        if self._num_signals > 0:
            raise KeyboardInterrupt

        return progress.failed

    def _start(self, pending: list[Job], done: set[str], failed: list[str], lock: int) -> bool:
        changed = False

        for worker in range(self._num_workers):
            if worker in self._running:
                continue

            job = next((j for j in pending if done.issuperset((*j.needs, *j.after))), None)
            if job is None:
                break

            pending.remove(job)
            changed = True

            log = self._state.find(job.name, "log")
            log.parent.mkdir(parents=True, exist_ok=True)

            try:
                command = job.make_command()
                if not self._state.may_go_on(job, command):
                    raise InputError(
                        f"{job.name}: was begun with other settings, configuration files or data than there are now; "
                        "do it again with `--redo`."
                    )
            except InputError as ex:
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(f"{ex}\n")

                self._state.add_attempt(job, Attempt(self._find_version(), _WRONG_INPUT, 0.0))
                failed.append(job.name)
                continue

            self._state.begin(job, command)

            version = self._find_version()

            with log.open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "eqssl_speech", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self._environment[worker % len(self._environment)],
                    # A Ctrl-C of the terminal is passed on in order, as the end of a run.
                    start_new_session=True,
                    # As long as it lives, no other study begins.
                    pass_fds=(lock,),
                )

            self._running[worker] = _Running(job, process, version, time.monotonic())

        return changed

    def _finish(self, active: _Running, status: int) -> bool:
        """Write down how a process ended; say whether its job is done."""
        job, wall_s = active.job, round(time.monotonic() - active.start, 1)

        self._state.add_attempt(job, Attempt(active.version, status, wall_s))

        # A full disk, or what a job was stopped by, says nothing of its setting.
        if status == 0 or (status == DIVERGED and job.may_diverge):
            self._state.finish(job, status)

            return True

        return False

    def _end(self) -> None:
        """Ask the running jobs to stop, which trainings do with a checkpoint, and wait for them."""
        running, self._running = list(self._running.values()), {}

        for active in running:
            active.process.send_signal(signal.SIGTERM)

        # Who asks again has no time for a checkpoint, even if both were asked before this.
        num_signals = min(self._num_signals, 1)
        killed = False

        while any(active.process.poll() is None for active in running):
            if self._num_signals > num_signals:
                killed = True
                for active in running:
                    active.process.kill()

            time.sleep(_POLL_S)

        for active in running:
            status = active.process.returncode

            # On a full disk each is tried: what can be written is, and the rest goes on from its checkpoint.
            with suppress(OSError):
                self._finish(active, STOPPED if killed and status == -signal.SIGKILL else status)

    @contextmanager
    def _handle_signals(self) -> Iterator[None]:
        first_s = 0.0

        def count(_: int, __: object) -> None:
            nonlocal first_s

            # What is asked for once may come twice: a terminal that is closed hangs up, and so does its shell.
            if self._num_signals == 0:
                first_s = time.monotonic()
            elif time.monotonic() - first_s < _REPEAT_S:
                return

            self._num_signals += 1

        # `nohup` has the hang-up ignored.
        originals = {
            number: signal.signal(number, count)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }

        try:
            yield
        finally:
            for number, original in originals.items():
                signal.signal(number, original)


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
