"""A copy of tensors that can be put back, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from eqssl_speech.equilibrium.replica import local_part


@final
class Snapshot:
    """Remembers the values of tensors and puts them back in place.

    The memory is allocated once and used again, so a training run pays for one copy of its parameters however many
    episodes it sees.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """:param tensors: The tensors to remember, of sharded ones what lies here; they keep their identity."""
        self._tensors = list(tensors)
        self._copies: list[Tensor] | None = None

    @torch.no_grad()
    def take(self) -> None:
        """Copy the present values."""
        parts = self._find_parts()

        if self._copies is None:
            self._copies = [torch.empty_like(t) for t in parts]

        _copy(self._copies, parts)

    @torch.no_grad()
    def put_back(self) -> None:
        """Write the copied values back.

        :raises RuntimeError: If nothing was taken yet.
        """
        if self._copies is None:
            raise RuntimeError("`put_back()` was called before `take()`.")

        _copy(self._find_parts(), self._copies)

        forget_cast_weights()

    def _find_parts(self) -> list[Tensor]:
        # Each time anew: FSDP2 gives shards of unequal lengths other memory in the first forward pass, and whenever a
        # state is loaded.
        return [local_part(t) for t in self._tensors]


def forget_cast_weights() -> None:
    """Drop the low-precision copies of weights that autocast keeps until its outermost exit.

    To be called after every write to the parameters, or a forward under autocast goes on with the old values.
    """
    torch.clear_autocast_cache()


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
