"""Error rates over seeds and utterances, with intervals for what both do to them.

How much utterances do is found by resampling them. Seeds are too few for that (draws of three differ far less than
seeds do): theirs is the interval of Student's t. Two regimes are compared seed by seed and on the same draws of
utterances, so that what both share (an utterance that is hard, a seed that is lucky in both) does not blur their
difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any, Final, TypeAlias, final
from zlib import crc32

import numpy as np
import numpy.typing as npt

from eqssl_speech.tasks.evaluate.scores import UNITS, ScoredUtterance

NUM_RESAMPLES: Final = 2000

# Of 95 %, the level of all intervals.
_NORMAL_QUANTILE: Final = 1.96
_T_QUANTILES: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Of 1 to 30 degrees of freedom."""

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

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "is_certain": self.is_certain}


def summarize(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Return the mean and the standard deviation, for JSON; none of both where a run has diverged.

    :param values: The value of each run; ``None`` of one that has none.
    :returns: ``None`` if no run has one.
    """
    known = [x for x in values if x is not None]
    if not known:
        return None

    num_infinite = sum(not math.isfinite(x) for x in known)

    return {
        "mean": None if num_infinite else mean(known),
        "sd": None if num_infinite or len(known) < 2 else stdev(known),
        "num": len(known),
        "num_infinite": num_infinite,
    }


@final
class Resampler:
    """Draws utterances, the same for every regime."""

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
        resampled = rates[:, 1:].mean(axis=0)

        return estimate_mean(rates[:, 0].tolist(), utterance_sd=float(resampled.std()))

    def _multiplicities(self, source: str, num: int) -> npt.NDArray[np.int64]:
        """Return how often each utterance of a source is drawn; first, once each."""
        key = (source, num)

        if key not in self._times:
            generator = np.random.default_rng([num, crc32(source.encode())])
            drawn = generator.multinomial(num, np.full(num, 1.0 / num), size=self._num)

            self._times[key] = np.concatenate([np.ones((1, num), dtype=np.int64), drawn])

        return self._times[key]


def estimate_mean(values: Sequence[float], utterance_sd: float = 0.0) -> Estimate:
    """Return the mean over seeds.

    The interval holds the mean of all seeds, and utterances, in 95 % of all studies, or more: utterances show in how
    much seeds differ too, and are counted twice then.

    :param values: The value of each seed; for a difference, of what is compared seed by seed.
    :param utterance_sd: The standard deviation of the mean over draws of utterances.
    """
    array = np.asarray(values, dtype=np.float64)
    seed_width = 0.0

    if (free := len(array) - 1) > 0:
        # Of more, a little less than the last.
        quantile = _T_QUANTILES[min(free, len(_T_QUANTILES)) - 1]
        seed_width = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))

    width = math.hypot(seed_width, _NORMAL_QUANTILE * utterance_sd)
    value = float(array.mean())

    return Estimate(value, value - width, value + width, len(array))


def compare_seeds(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """Return how much higher a number of a regime is than that of another, on the seeds that both have, for JSON.

    :param ours: By seed.
    :param theirs: By seed.
    :returns: ``None`` if they have none in common, or if a run has diverged.
    """
    both = sorted(set(ours) & set(theirs))
    differences = [ours[seed] - theirs[seed] for seed in both]

    if not both or not all(math.isfinite(x) for x in differences):
        return None

    return estimate_mean(differences).to_json()


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
