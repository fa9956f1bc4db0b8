"""Which data sources an update sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np


@final
class SourceSchedule:
    """Derives the sources of every outer step from one seed, so that all ranks agree without a word.

    Either all sources in each step, or a number of draws (with replacement) by ``p_i ~ n_i^alpha``.
    """

    def __init__(
        self, durations_s: Sequence[float], *, num_per_step: int | None, alpha: float, seed: int
    ) -> None:
        """
        :param durations_s: The seconds of audio of each source, greater than 0.
        :param num_per_step: Draws per step, at least 1; ``None`` takes every source once per step.
        :param alpha: 1 draws in proportion to the audio of a source, 0 draws all alike. *Range:* [0, 1].
        :param seed: Shared by all ranks.
        """
        weights = np.asarray(durations_s, dtype=np.float64) ** alpha

        self._probabilities = weights / weights.sum()
        self._num_per_step = num_per_step
        self._seed = seed

    def sources_at(self, step_nr: int) -> tuple[int, ...]:
        """Return the indices of the sources of an outer step.

        :param step_nr: From 1.
        """
        num_sources = len(self._probabilities)

        if self._num_per_step is None:
            return tuple(range(num_sources))

        rng = np.random.default_rng([self._seed, 0x5C4ED, step_nr])
        draws = rng.choice(num_sources, size=self._num_per_step, p=self._probabilities)

        return tuple(sorted(int(i) for i in draws))

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
