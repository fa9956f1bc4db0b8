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

MIN_NUM_SEEDS: Final = 3
"""Of fewer seeds, a difference is never called certain: how much seeds differ is not known."""


@final
@dataclass(frozen=True)
class UtteranceCounts:
    """The errors of the utterances of a source."""

    names: tuple[str, ...]
    """Of the utterances, with their references: those of one name are the same in each evaluation."""

    counts: npt.NDArray[np.int64]
    """Errors and labels of each in words and characters. *Shape:* ``(U, 2, 2)``."""

    @staticmethod
    def of(utterances: Sequence[ScoredUtterance]) -> UtteranceCounts:
        """Take the counts of an evaluation."""
        return UtteranceCounts(
            tuple(f"{u.id}\n{u.reference}" for u in utterances),
            np.array(
                [
                    [(u.count(unit).num_errors, u.count(unit).num_reference) for unit in UNITS]
                    for u in utterances
                ],
                dtype=np.int64,
            ).reshape(-1, 2, 2),
        )

    def pick(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the counts of some utterances, in their order."""
        places = {name: i for i, name in enumerate(self.names)}

        return self.counts[[places[name] for name in names]]


SeedCounts: TypeAlias = Mapping[int, Mapping[str, UtteranceCounts]]
"""By seed and source."""


@final
@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float

    num_seeds: int
    """The seeds that it is of."""

    @property
    def is_certain(self) -> bool:
        """Whether a difference is one: 0 is outside of the interval, and there are seeds enough."""
        return self.num_seeds >= MIN_NUM_SEEDS and (self.low > 0.0 or self.high < 0.0)


@final
class Resampler:
    """Draws seeds and utterances, the same for every regime."""

    def __init__(self, num_resamples: int = NUM_RESAMPLES) -> None:
        """:param num_resamples: How often it draws."""
        self._num = num_resamples
        self._times: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def rate(self, counts: SeedCounts, sources: Sequence[str], unit: int) -> Estimate:
        """Return the error rate, averaged over sources and seeds.

        :param counts: The counts of a regime, of at least one seed; each seed has all sources.
        :param sources: The sources.
        :param unit: 0 for words, 1 for characters.
        """
        names = _find_common([counts], sources)

        return self._estimate(self._draw(counts, sources, names, unit))

    def difference(
        self, ours: SeedCounts, theirs: SeedCounts, sources: Sequence[str], unit: int
    ) -> Estimate:
        """Return how much higher the rate of a regime is than that of another, on the seeds and utterances that both
        have."""
        both = sorted(set(ours) & set(theirs))
        pair = [{seed: counts[seed] for seed in both} for counts in (ours, theirs)]
        names = _find_common(pair, sources)

        a, b = (self._draw(counts, sources, names, unit) for counts in pair)

        return self._estimate(a - b)

    def _draw(
        self,
        counts: SeedCounts,
        sources: Sequence[str],
        names: Mapping[str, Sequence[str]],
        unit: int,
    ) -> npt.NDArray[np.float64]:
        """Return the rate of each seed: as it is, and of each resample of utterances. *Shape:* ``(S, R + 1)``."""
        seeds = sorted(counts)
        rates = np.zeros((len(seeds), self._num + 1))

        for source in sources:
            for i, seed in enumerate(seeds):
                pairs = counts[seed][source].pick(names[source])[:, unit]

                # (R + 1, U) x (U, 2) -> (R + 1, 2)
                sums = self._multiplicities(source, len(pairs)) @ pairs
                rates[i] += sums[:, 0] / np.maximum(1, sums[:, 1]) / len(sources)

        return rates

    def _estimate(self, rates: npt.NDArray[np.float64]) -> Estimate:
        num_seeds = len(rates)

        generator = np.random.default_rng(num_seeds)
        drawn = generator.integers(num_seeds, size=(self._num, num_seeds))

        means = rates.mean(axis=0)
        resampled = rates[drawn, np.arange(1, self._num + 1)[:, None]].mean(axis=1)

        # Of few seeds, draws with replacement differ less than the seeds do.
        factor = np.sqrt(num_seeds / (num_seeds - 1)) if num_seeds > 1 else 1.0
        draws = means[1:] + factor * (resampled - means[1:])

        tail = 100 * (1.0 - LEVEL) / 2
        low, high = np.percentile(draws, [tail, 100 - tail])

        return Estimate(float(means[0]), float(low), float(high), num_seeds)

    def _multiplicities(self, source: str, num: int) -> npt.NDArray[np.int64]:
        """Return how often each utterance of a source is drawn; first, once each."""
        key = (source, num)

        if key not in self._times:
            generator = np.random.default_rng([num, crc32(source.encode())])
            drawn = generator.multinomial(num, np.full(num, 1.0 / num), size=self._num)

            self._times[key] = np.concatenate([np.ones((1, num), dtype=np.int64), drawn])

        return self._times[key]


def _find_common(all_counts: Sequence[SeedCounts], sources: Sequence[str]) -> dict[str, list[str]]:
    """Find the utterances that all evaluations of a source have."""
    return {
        source: sorted(
            set.intersection(
                *(
                    set(by_source[source].names)
                    for counts in all_counts
                    for by_source in counts.values()
                )
            )
        )
        for source in sources
    }
