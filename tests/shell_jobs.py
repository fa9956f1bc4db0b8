"""Jobs of a study that are lines of shell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eqssl_speech.study.jobs import Job
from eqssl_speech.study.runner import StudyRunner
from eqssl_speech.study.state import StudyState

POPEN = subprocess.Popen


def make_job(name: str, command: str, *needs: str, **kwargs: Any) -> Job:
    """Make a job whose command is a line of shell; see :class:`~eqssl_speech.study.jobs.Job`."""
    return Job(name, lambda: [command], needs, **kwargs)


def make_state(directory: Path) -> StudyState:
    """Return what is kept of a study's jobs in a directory, beside which is a corpus."""
    (directory / "corpus").mkdir(exist_ok=True)
    (directory / "corpus" / "sources.tsv").write_text("a\n")

    return StudyState(directory, directory / "corpus", directory / "out")


def run_jobs(directory: Path, jobs: list[Job]) -> list[str]:
    """Run jobs with two workers; return the names of those that failed."""
    runner = StudyRunner(
        make_state(directory),
        num_workers=2,
        find_version=lambda: "abc",
        environment=[{}],
        out=directory / "out",
    )

    with patch("eqssl_speech.study.runner.subprocess.Popen", _start):
        return runner.run(jobs)


def _start(command: list[str], **kwargs: Any) -> subprocess.Popen[bytes]:
    return POPEN(["/bin/sh", "-c", command[3]], **kwargs)
