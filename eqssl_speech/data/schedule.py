"""Which data sources an update sees."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt

_MIN_BLOCK_NUM_DRAWS: Final = 12
_GOLDEN_RATIO: Final = (5**0.5 - 1) / 2


def share_out(
    durations_s: Sequence[float],
    alpha: float,
    rehearsed: Collection[int] = (),
    rehearsal_share: float = 0.0,
) -> npt.NDArray[np.float64]:
    """Divide draws among sources by ``p_i ~ n_i^alpha``, a set share of them among those that are rehearsed.

    :param durations_s: The seconds of audio of each source, greater than 0.
    :param alpha: 1 draws in proportion to the audio of a source, 0 draws all alike. *Range:* [0, 1].
    :param rehearsed: The indices of the sources that are rehearsed: none, or some and not all.
    :param rehearsal_share: The share of draws that they get together. *Range:* (0, 1).
    :returns: The share of each; they add up to 1.
    """
    weights = np.asarray(durations_s, dtype=np.float64) ** alpha

    if rehearsed:
        old = np.isin(np.arange(len(weights)), list(rehearsed))

        weights[old] *= rehearsal_share / weights[old].sum()
        weights[~old] *= (1.0 - rehearsal_share) / weights[~old].sum()

    shares: npt.NDArray[np.float64] = weights / weights.sum()

    return shares


@final
class SourceSchedule:
    """Derives the sources of every outer step from one seed, so that all ranks agree without a word.

    Either all sources in each step, or a number of draws by ``p_i ~ n_i^alpha``. The draws are stratified (systematic
    sampling, some turns of each at a time, in random order): a source may have its turn twice in a step and none in the
    next, but how often it has had it is off by a few turns at most, never by the square root of their number, so that a
    small source is passed over as often as its share says.
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        *,
        num_per_step: int | None,
        alpha: float,
        seed: int,
        rehearsed: Collection[int] = (),
        rehearsal_share: float = 0.0,
    ) -> None:
        """
        :param durations_s: As for :func:`share_out`.
        :param num_per_step: Draws per step, at least 1; ``None`` takes every source once per step.
        :param alpha: As for :func:`share_out`.
        :param seed: Shared by all ranks.
        :param rehearsed: As for :func:`share_out`.
        :param rehearsal_share: As for :func:`share_out`.
        """
        self._probabilities = share_out(durations_s, alpha, rehearsed, rehearsal_share)
        self._upper_bounds = np.cumsum(self._probabilities)[:-1]
        self._num_per_step = num_per_step

        # Sources that share a stratum never meet within a block, so blocks are long, and steps may lie across two.
        self._block_num_draws = max(_MIN_BLOCK_NUM_DRAWS, 4 * len(self._probabilities))
        while math.gcd(self._block_num_draws, num_per_step or 1) > 1:
            self._block_num_draws += 1

        self._seed = seed

    def sources_at(self, step_nr: int) -> tuple[int, ...]:
        """Return the indices of the sources of an outer step.

        :param step_nr: From 1.
        """
        num_draws = self._num_per_step

        if num_draws is None:
            return tuple(range(len(self._probabilities)))

        block_nr, begin = divmod((step_nr - 1) * num_draws, self._block_num_draws)
        num_blocks = -(-(begin + num_draws) // self._block_num_draws)

        draws = np.concatenate([self._draw_block(block_nr + i) for i in range(num_blocks)])

        return tuple(sorted(draws[begin : begin + num_draws].tolist()))

    def _draw_block(self, block_nr: int) -> npt.NDArray[np.intp]:
        start = np.random.default_rng([self._seed, 0x5C4ED]).random()

        # What a block gives a source too much, those after it give it less, by the steps of the golden ratio.
        offset = (start + block_nr * _GOLDEN_RATIO) % 1.0
        points = (np.arange(self._block_num_draws) + offset) / self._block_num_draws

        rng = np.random.default_rng([self._seed, 0x5C4ED, block_nr])

        return rng.permutation(np.searchsorted(self._upper_bounds, points, side="right"))

    @property
    def num_sources_per_step(self) -> int:
        """How many episodes' sources a step has, repetitions counted."""
        return len(self._probabilities) if self._num_per_step is None else self._num_per_step

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of episodes that each source gets in the long run."""
        if self._num_per_step is None:
            return (1.0 / len(self._probabilities),) * len(self._probabilities)

        return tuple(float(p) for p in self._probabilities)
