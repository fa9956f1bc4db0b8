"""Error rates over seeds and utterances, with intervals from resampling both.

Two regimes are compared on the same draws of seeds and utterances, so that what both share (an utterance that is hard,
a seed that is lucky in both) does not blur their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from eqssl_speech.tasks.evaluate.scores import UNITS, ScoredUtterance

NUM_RESAMPLES: Final = 2000

LEVEL: Final = 0.95

Counts: TypeAlias = npt.NDArray[np.int64]
"""Errors and labels of each utterance in words and characters. *Shape:* ``(U, 2, 2)``."""

SeedCounts: TypeAlias = Mapping[int, Mapping[str, Counts]]
"""By seed and source."""


@final
@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float

    @property
    def is_certain(self) -> bool:
        """Whether 0 is outside of the interval, of a difference."""
        return self.low > 0.0 or self.high < 0.0


def count_utterances(utterances: Sequence[ScoredUtterance]) -> Counts:
    """Return the counts of utterances, in the order of their names."""
    ordered = sorted(utterances, key=lambda u: (u.source, u.id))

    return np.array(
        [
            [(u.count(unit).num_errors, u.count(unit).num_reference) for unit in UNITS]
            for u in ordered
        ],
        dtype=np.int64,
    ).reshape(-1, 2, 2)


@final
class Resampler:
    """Draws seeds and utterances, the same for every regime."""

    def __init__(self, num_resamples: int = NUM_RESAMPLES) -> None:
        """:param num_resamples: How often it draws."""
        self._num = num_resamples
        self._times: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def rate(self, counts: SeedCounts, sources: Sequence[str], unit: int) -> Estimate:
        """Return the error rate, averaged over sources and seeds.

        :param counts: The counts of a regime; each seed has all sources.
        :param sources: The sources.
        :param unit: 0 for words, 1 for characters.
        """
        return _estimate(self._draw(counts, sources, unit))

    def difference(
        self, ours: SeedCounts, theirs: SeedCounts, sources: Sequence[str], unit: int
    ) -> Estimate:
        """Return how much higher the rate of a regime is than that of another, on the seeds that both have."""
        both = sorted(set(ours) & set(theirs))

        a, b = (
            self._draw({seed: counts[seed] for seed in both}, sources, unit)
            for counts in (ours, theirs)
        )

        return _estimate(a - b)

    def _draw(
        self, counts: SeedCounts, sources: Sequence[str], unit: int
    ) -> npt.NDArray[np.float64]:
        """Return the rate as it is, and of each resample. *Shape:* ``(R + 1,)``."""
        seeds = sorted(counts)

        # (S, R + 1)
        rates = np.zeros((len(seeds), self._num + 1))

        for source in sources:
            for i, seed in enumerate(seeds):
                pairs = counts[seed][source][:, unit]

                # (R + 1, U) x (U, 2) -> (R + 1, 2)
                sums = self._multiplicities(source, len(pairs)) @ pairs
                rates[i] += sums[:, 0] / np.maximum(1, sums[:, 1]) / len(sources)

        generator = np.random.default_rng(len(seeds))
        drawn = generator.integers(len(seeds), size=(self._num, len(seeds)))

        resampled = rates[drawn, np.arange(1, self._num + 1)[:, None]].mean(axis=1)

        return np.concatenate([rates[:, :1].mean(axis=0), resampled])

    def _multiplicities(self, source: str, num: int) -> npt.NDArray[np.int64]:
        """Return how often each utterance of a source is drawn; first, once each."""
        key = (source, num)

        if key not in self._times:
            generator = np.random.default_rng([num, crc32(source.encode())])
            drawn = generator.multinomial(num, np.full(num, 1.0 / num), size=self._num)

            self._times[key] = np.concatenate([np.ones((1, num), dtype=np.int64), drawn])

        return self._times[key]


def _estimate(draws: npt.NDArray[np.float64]) -> Estimate:
    tail = 100 * (1.0 - LEVEL) / 2
    low, high = np.percentile(draws[1:], [tail, 100 - tail])

    return Estimate(float(draws[0]), float(low), float(high))
