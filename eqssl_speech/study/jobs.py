"""The jobs of a study: their commands, and how they are called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from eqssl_speech.error import InputError
from eqssl_speech.study.cells import Cell

START: Final = "start"
TUNE: Final = "tune"
PRETRAIN: Final = "pretrain"
FINETUNE: Final = "finetune"
TEST: Final = "test"
ADAPT: Final = "adapt"
PHONES: Final = "phones"

SEEN: Final = "seen"
UNSEEN: Final = "unseen"


@final
class NothingToChooseError(InputError):
    """Raised when all runs have diverged that a setting was to be chosen from."""


@final
@dataclass(frozen=True)
class Job:
    """One command."""

    name: str
    """Its place in the study's directory; the first part is its kind."""

    make_command: Callable[[], list[str]]
    """Returns the arguments of `eqssl`, once all that it needs is done."""

    needs: tuple[str, ...] = ()
    """The jobs that have to be done before, and of whose results it is made."""

    after: tuple[str, ...] = ()
    """The jobs that have to be done before as well, whose results show in its command, and nowhere else."""

    files: tuple[Path, ...] = ()
    """What it reads besides manifests, texts, and what the jobs before it have made."""

    may_diverge: bool = False
    """Whether it is a result that it diverges: the setting is not chosen then."""

    @property
    def kind(self) -> str:
        """What it is, such as ``pretrain``."""
        return self.name.split("/", maxsplit=1)[0]


def list_before(jobs: Iterable[Job], names: Collection[str]) -> list[Job]:
    """List the jobs that have to be done before the commands of some are known.

    :param jobs: All jobs, each after those that it needs.
    :param names: Those whose commands are asked for.
    """
    jobs = list(jobs)
    wanted: set[str] = set()

    for job in reversed(jobs):
        if job.name in wanted:
            wanted.update(job.needs)
        if job.name in wanted or job.name in names:
            wanted.update(job.after)

    return [job for job in jobs if job.name in wanted]


def list_after(jobs: Iterable[Job], names: Collection[str]) -> set[str]:
    """List some jobs, and those that cannot be run without them.

    :param jobs: All jobs, each after those that it needs.
    :param names: Those that are not run.
    """
    found = set(names)

    for job in jobs:
        if not found.isdisjoint((*job.needs, *job.after)):
            found.add(job.name)

    return found


def name_adaptation(cell: Cell, group: str, lr: float) -> str:
    """Return the name of the job that measures adaptation with steps of one size."""
    return f"{ADAPT}/{cell.name}/{group}/lr={lr:g}"


def name_phones(cell: Cell, layer: int) -> str:
    """Return the name of the job that finds out what a layer tells of phones."""
    return f"{PHONES}/{cell.name}/layer-{layer}"


def name_tuning(family: str, regime: str, name: str, value: float) -> str:
    """Return the name of the job that tries a setting."""
    return f"{TUNE}/{family}/{regime}/{name}={value:g}"
