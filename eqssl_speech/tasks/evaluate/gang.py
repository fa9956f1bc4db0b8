"""Several processes that share the utterances, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar, final

import torch.distributed

T = TypeVar("T")

_TIMEOUT: Final = timedelta(days=1)
"""How long a process that is done waits for the slowest."""


@final
@dataclass(frozen=True)
class Gang:
    """This process among its likes."""

    rank: int = 0
    """Its number, from 0."""

    size: int = 1
    """How many there are."""

    def deal(self, units: Sequence[T]) -> list[T]:
        """Return the part of the work that is this process's.

        :param units: All work, the same on all processes.
        """
        return list(units[self.rank :: self.size])

    def gather(self, results: Sequence[T]) -> list[T]:
        """Exchange what the processes found.

        :param results: What this one found; it must be picklable.
        :returns: What all found, the same on all processes.
        """
        if self.size == 1:
            return list(results)

        parts: list[list[T] | None] = [None] * self.size

        torch.distributed.all_gather_object(parts, list(results))

        return [result for part in parts for result in part or ()]


@contextmanager
def open_gang() -> Iterator[Gang]:
    """Meet the other processes, if ``torchrun`` started any (``RANK`` and ``WORLD_SIZE`` are set)."""
    size = int(os.environ.get("WORLD_SIZE", "1"))

    if size == 1:
        yield Gang()
        return

    torch.distributed.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Gang(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()
