"""What a study keeps of its jobs: with which command and inputs each was done, and every attempt at it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, final

from eqssl_speech.error import InputError
from eqssl_speech.files import replace_file
from eqssl_speech.study.jobs import Job, NothingToChooseError
from eqssl_speech.tasks.signals import STOPPED

STATE_DIRECTORY: Final = "state"

_NOT_FAILED: Final = (0, STOPPED, 128 + signal.SIGINT, -signal.SIGINT, -signal.SIGTERM)
"""The exit statuses of a job that was asked to stop and will go on, or whose end was not written down any more."""


@final
@dataclass(frozen=True)
class Attempt:
    """A process that was started for a job."""

    commit: str | None
    """The version of the code."""

    status: int
    """How it ended."""

    wall_s: float


@final
@dataclass(frozen=True)
class Judgement:
    """Which of the jobs that are done or begun are not of what there is now."""

    stale: tuple[Job, ...]
    """Those with another command, or of other inputs; and those that decide on others, and whose results are gone."""

    undecided: tuple[str, ...]
    """Those that may be: it shows once others are done that come before."""


@final
class StudyState:
    """The records of a study's jobs, files in its directory."""

    def __init__(self, directory: Path, corpus: Path, out: Path) -> None:
        """
        :param directory: Where the study's file lies, with its configuration files.
        :param corpus: The corpus, whose manifests and texts are a part of every job's inputs.
        :param out: The directory of the study.
        """
        self._out = out
        self._aside: frozenset[str] = frozenset()
        self._corpus = _digest(_list_corpus(corpus))
        self._places = {"STUDY": str(directory), "CORPUS": str(corpus), "OUT": str(out)}

    def read(self, name: str) -> Mapping[str, Any] | None:
        """Read how a job was done: its ``command``, ``inputs``, ``status``, ``attempts`` and total ``wall_s``.

        :returns: ``None`` if it is not done.
        :raises InputError: If the record is damaged.
        """
        file = self.find(name, "json")
        if name in self._aside or not file.is_file():
            return None

        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            record = None

        if not isinstance(record, dict) or not {"command", "inputs", "wall_s"} <= set(record):
            raise InputError(f"{file}: is damaged; remove it, and the job is done again.")

        return record

    def find(self, name: str, suffix: str) -> Path:
        """Return the file with the output (``log``), the record (``json``), the attempts (``jsonl``) or, until it is
        done, the beginning (``begun``) of a job."""
        file = self._out / STATE_DIRECTORY / name

        # Names have dots, of numbers.
        return file.with_name(f"{file.name}.{suffix}")

    def begin(self, job: Job, command: Sequence[str]) -> None:
        """Remember what a job is made of that is now started, or goes on."""
        record = {
            "command": ["eqssl", *command],
            "places": self._places,
            "inputs": self.make_inputs(job),
        }
        replace_file(self.find(job.name, "begun"), _dump(record))

    def add_attempt(self, job: Job, attempt: Attempt) -> None:
        """Remember a process that has ended."""
        attempts = [*self._read_attempts(job.name), asdict(attempt)]
        lines = "".join(json.dumps(x) + "\n" for x in attempts)

        # Whole or not at all: what is appended to a line that a full disk has torn would be lost with it.
        replace_file(self.find(job.name, "jsonl"), lines.encode())

    def find_failure(self, name: str) -> int | None:
        """Return how the last attempt at a job ended that is not done; ``None`` if there is none, or if it was asked to
        stop."""
        if name in self._aside or self.read(name) is not None:
            return None

        attempts = self._read_attempts(name)
        if not attempts or (status := attempts[-1]["status"]) in _NOT_FAILED:
            return None

        assert isinstance(status, int)

        return status

    def finish(self, job: Job, status: int) -> None:
        """Write the record of a job that was begun, and is done."""
        attempts = self._read_attempts(job.name)

        # A file may have been changed meanwhile.
        record = dict(self._read_begun(job.name) or {}) | {
            "status": status,
            # What is done again is told from what was there, though it be the same.
            "ended_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "wall_s": round(sum(attempt["wall_s"] for attempt in attempts), 1),
            "attempts": attempts,
        }
        replace_file(self.find(job.name, "json"), _dump(record), durable=True)
        self.find(job.name, "begun").unlink(missing_ok=True)

    def _read_attempts(self, name: str) -> list[dict[str, Any]]:
        attempts = []

        # What a power cut has torn is not one.
        with suppress(FileNotFoundError, ValueError):
            for line in self.find(name, "jsonl").read_text(encoding="utf-8").splitlines():
                attempts.append(json.loads(line))

        return attempts

    def make_inputs(self, job: Job) -> str:
        """Return what stands for all that a job is made of besides its command: the corpus, configuration files, and
        the records of the jobs that it needs, which differ when one is done again."""
        files = (*job.files, *(self.find(name, "json") for name in job.needs))
        contents = (file.read_bytes() if file.is_file() else b"" for file in files)

        return _digest([self._corpus.encode(), *contents])

    def judge(self, jobs: Iterable[Job]) -> Judgement:
        """Say which of the jobs that are done or begun are of what there is now.

        :param jobs: All jobs, each after those that it needs.
        :raises InputError: If a record, or what a job before has made, is damaged.
        """
        stale: dict[str, Job] = {}
        undecided: dict[str, None] = {}

        jobs = list(jobs)
        # What is chosen is read from what they have made.
        decisive = {name for job in jobs for name in job.after}

        for job in jobs:
            record = self.read(job.name)
            begun = self._read_begun(job.name) if record is None else None
            known = record or begun
            if known is None:
                continue

            is_open = any(
                self.read(name) is None or name in stale or name in undecided for name in job.after
            )
            is_gone = record is not None and not (self._out / job.name).is_dir()

            if (
                not stale.keys().isdisjoint(job.needs)
                or known["inputs"] != self.make_inputs(job)
                or (is_gone and job.name in decisive)
                or (not is_open and not self._is_command(known, job, is_begun=record is None))
            ):
                stale[job.name] = job
            elif is_open or not undecided.keys().isdisjoint(job.needs):
                undecided[job.name] = None

        return Judgement(tuple(stale.values()), tuple(undecided))

    def may_go_on(self, job: Job, command: Sequence[str]) -> bool:
        """Say whether a job is begun with nothing else than a command, and what there is now, if it is begun."""
        begun = self._read_begun(job.name)

        return begun is None or (
            begun["inputs"] == self.make_inputs(job)
            and self._is_same(begun, command, is_begun=True)
        )

    def set_aside(self, names: Iterable[str]) -> None:
        """From now on, read jobs as if they were not done."""
        self._aside = frozenset(names)

    def _is_command(self, record: Mapping[str, Any], job: Job, *, is_begun: bool) -> bool:
        try:
            command = job.make_command()
        except NothingToChooseError:
            return False

        return self._is_same(record, command, is_begun=is_begun)

    def _is_same(
        self, record: Mapping[str, Any], command: Sequence[str], *, is_begun: bool
    ) -> bool:
        """Say whether a command is that of a record, wherever the study, its corpus and its file now lie; a training
        that is begun goes on only with what lies where it was."""
        places = record.get("places", self._places)

        if is_begun and any(places[name] != self._places[name] for name in ("CORPUS", "OUT")):
            return False

        return _generalize(record["command"], places) == _generalize(
            ["eqssl", *command], self._places
        )

    def _read_begun(self, name: str) -> Mapping[str, Any] | None:
        try:
            content = json.loads(self.find(name, "begun").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

        return (
            content if isinstance(content, dict) and {"command", "inputs"} <= set(content) else None
        )

    def forget(self, job: Job) -> None:
        """Remove what a job has made, and its record.

        :raises InputError: If it cannot be removed.
        """
        # Killed meanwhile, it is neither done nor begun with what there is now.
        with suppress(FileNotFoundError):
            self.find(job.name, "json").replace(self.find(job.name, "begun"))

        # As long as some of it is there, so is what it was begun with.
        try:
            shutil.rmtree(self._out / job.name)
        except FileNotFoundError:
            pass
        except OSError as ex:
            raise InputError(
                f"{self._out / job.name}: cannot be removed ({ex.strerror}); remove it by hand."
            ) from None

        for suffix in ("jsonl", "log", "begun"):
            self.find(job.name, suffix).unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Keep other studies out of the directory, as long as this process lives or one that inherits the descriptor.

        :returns: The descriptor.
        :raises InputError: If another is at work there.
        """
        directory = self._out / STATE_DIRECTORY
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as ex:
            raise InputError(
                f"{directory}: cannot be written ({ex.strerror}); choose another directory."
            ) from None

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)

            raise InputError(
                f"{self._out}: another `eqssl study`, or a job that one has left behind, is at work there; wait for "
                "it, or stop it."
            ) from None

        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _list_corpus(corpus: Path) -> Iterator[bytes]:
    files = [*corpus.glob("sources.tsv"), *corpus.glob("*/*.tsv"), *corpus.glob("*/*.wrd")]

    for file in sorted(files):
        yield str(file.relative_to(corpus)).encode()
        yield file.read_bytes()


def _generalize(command: Sequence[str], places: Mapping[str, str]) -> list[str]:
    """Name the places in a command, one of which may lie in another."""
    longest_first = sorted(places.items(), key=lambda item: len(item[1]), reverse=True)

    def name_places(word: str) -> str:
        for name, path in longest_first:
            word = re.sub(rf"{re.escape(path)}(?![\w.-])", f"{{{name}}}", word)

        return word

    return [name_places(word) for word in command]


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()

    for part in parts:
        whole.update(hashlib.sha256(part).digest())

    return whole.hexdigest()
