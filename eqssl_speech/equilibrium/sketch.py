"""How much the outer gradients of different sources agree, at the cost of a few thousand numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from eqssl_speech.equilibrium.replica import local_part


@final
class GradientSketch:
    """Watches a fixed random set of gradient entries while episodes accumulate in ``.grad``.

    The change of the watched entries over a backward pass is that episode's outer gradient there. Cosines between
    episodes estimate those of the whole gradients; with n entries of like scale the standard error is about
    ``1 / sqrt(n)``.
    """

    def __init__(
        self, params: Sequence[Tensor], *, num_entries: int = 16_384, seed: int = 0
    ) -> None:
        """
        :param params: The parameters whose ``.grad`` is watched; of sharded ones the part that lies here.
        :param num_entries: How many entries, spread in proportion to the parameters' numbers of elements.
        :param seed: Of the choice of entries.
        """
        generator = torch.Generator().manual_seed(seed)
        sizes = [local_part(p).numel() for p in params]
        total = sum(sizes)

        self._watched: list[tuple[Tensor, Tensor]] = []

        for param, size in zip(params, sizes, strict=True):
            if size == 0:
                continue

            share = min(size, max(1, round(num_entries * size / total)))
            indices = torch.randint(size, (share,), generator=generator)
            self._watched.append((param, indices.to(param.device)))

        self._sums: dict[str, Tensor] = {}

    def watch(self, label: str, loss: Tensor, when_done: Callable[[], None] | None = None) -> None:
        """Attribute what the coming backward pass of a loss adds to ``.grad``.

        Under distributed data parallelism this is the gradient of this process, before it is averaged.

        :param label: The source it belongs to.
        :param loss: The scalar whose ``backward()`` is about to be called.
        :param when_done: Called when the backward pass has ended.
        """
        before = self._read()

        def when_backward_ends() -> None:
            gained = self._read() - before

            self._sums[label] = gained + self._sums[label] if label in self._sums else gained

            if when_done is not None:
                when_done()

        def when_backward_starts(grad: Tensor) -> None:
            torch.autograd.Variable._execution_engine.queue_callback(when_backward_ends)

        loss.register_hook(when_backward_starts)

    def mean_cosine(self) -> Tensor | None:
        """Return the mean cosine over all pairs of sources seen since the last call, and forget them.

        :returns: A scalar in [-1, 1], or ``None`` with fewer than two sources.
        """
        sums, self._sums = list(self._sums.values()), {}

        if len(sums) < 2:
            return None

        rows = torch.nn.functional.normalize(torch.stack(sums), dim=-1)
        cosines = rows @ rows.T
        n = len(sums)

        return (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))

    def _read(self) -> Tensor:
        entries = []

        for param, indices in self._watched:
            if param.grad is None:
                entries.append(torch.zeros(indices.numel(), device=param.device))
            else:
                entries.append(local_part(param.grad).view(-1)[indices].float())

        return torch.cat(entries)
