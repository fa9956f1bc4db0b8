"""Whether the last checkpoint of a run is as it was written, and how to go on if it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TypeVar, final

from fairseq2.gang import Gang, GangError
from fairseq2.logging import log

from eqssl_speech.error import InputError
from eqssl_speech.models.checksums import (
    CHECKSUM_FILE,
    DamagedFileError,
    find_damage,
    read_checksums,
)
from eqssl_speech.tasks.evaluate import gang as sharing

T = TypeVar("T")


def exchange(gang: Gang, item: T) -> list[T]:
    """Tell all ranks something, and hear from all.

    :param gang: All ranks of the run.
    :param item: What this rank tells; it must be picklable.
    :returns: What each rank told, in order.
    :raises GangError: If a rank is lost.
    """
    try:
        return sharing.Gang(gang.rank, gang.size).gather([item])
    except RuntimeError as ex:
        raise GangError("The processes cannot agree on the state of a checkpoint.") from ex


@final
class CheckpointChecker:
    """Compares the checkpoints of a run with their checksums.

    All methods are called by all ranks, which share the work and come to the same end.
    """

    def __init__(self, directory: Path, gang: Gang, list_steps: Callable[[], list[int]]) -> None:
        """
        :param directory: Holds a directory per checkpoint.
        :param gang: All ranks of the run.
        :param list_steps: Lists the steps that have a directory, in order.
        """
        self._directory = directory
        self._gang = gang
        self._list_steps = list_steps

    def check_last(self) -> None:
        """Compare the checkpoint that the run will resume from, if there is one.

        :raises InputError: If it is damaged; names the file, and how to go on.
        """
        steps = self.list_resumable()
        if not steps:
            return

        step_nr = steps[-1]

        damage = self._find_damage(step_nr)
        if damage is not None:
            raise InputError(f"{damage}; {self.offer_earlier(step_nr)}")

        if not self._is_listed(step_nr):
            # Whoever wrote a list once writes it always.
            if any(self._is_listed(n) for n in steps):
                damage = f"{self._step_dir(step_nr) / CHECKSUM_FILE}: is missing"

                raise InputError(f"{damage}; {self.offer_earlier(step_nr)}")

            log.warning(
                "{} was written by an older version, without checksums, so that nobody can tell whether it is whole.",
                self._step_dir(step_nr),
            )

    def offer_earlier(self, step_nr: int) -> str:
        """Say how to go on from the last checkpoint before this one that is whole.

        :param step_nr: The step of a checkpoint that is damaged.
        """
        damaged, rest = (
            [step_nr],
            "to start from the beginning, as no checkpoint before it is whole",
        )

        for earlier in reversed([n for n in self.list_resumable() if n < step_nr]):
            if self._find_damage(earlier) is None:
                listed = "is whole" if self._is_listed(earlier) else "has no checksums"
                rest = f"to resume from step {earlier}, which {listed}"
                break

            damaged.append(earlier)

        paths = [quote(str(self._step_dir(n))) for n in damaged]
        commands = " && ".join(f"mv {path} {path}.damaged" for path in paths)

        return f"put a copy of it there, or run `{commands}` and the same command again {rest}."

    def list_resumable(self) -> list[int]:
        """List the steps whose checkpoints hold more than the model, in order."""
        return [n for n in self._list_steps() if self._is_resumable(n)]

    def _is_resumable(self, step_nr: int) -> bool:
        step_dir = self._step_dir(step_nr)

        if (step_dir / "trainer").is_dir():
            return True

        try:
            checksums = read_checksums(step_dir) or {}
        except DamagedFileError:
            return True

        return any(name.startswith("trainer/") for name in checksums)

    def _is_listed(self, step_nr: int) -> bool:
        return (self._step_dir(step_nr) / CHECKSUM_FILE).exists()

    def _find_damage(self, step_nr: int) -> str | None:
        damage = find_damage(
            self._step_dir(step_nr), part=self._gang.rank, num_parts=self._gang.size
        )

        return next((d for d in exchange(self._gang, damage) if d is not None), None)

    def _step_dir(self, step_nr: int) -> Path:
        return self._directory / f"step_{step_nr}"
