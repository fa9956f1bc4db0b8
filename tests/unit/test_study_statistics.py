"""What a study compares has intervals that hold what they say, paired over utterances and over seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from eqssl_speech.study.statistics import (
    Resampler,
    UtteranceCounts,
    compare_seeds,
    estimate_mean,
)
from eqssl_speech.tasks.evaluate.scores import ScoredUtterance


def make_counts(rng: np.random.Generator, errors: float, source: str) -> Any:
    words = [" ".join("ab" for _ in range(5)) for _ in range(40)]
    utterances = [
        ScoredUtterance.score(
            str(i),
            source,
            1.0,
            text,
            " ".join("ab" if rng.random() > errors else "x" for _ in range(5)),
        )
        for i, text in enumerate(words)
    ]

    return UtteranceCounts.of(utterances)


def test_differences_have_intervals_that_are_theirs() -> None:
    rng = np.random.default_rng(1)

    def make(errors: float) -> Any:
        return {s: {x: make_counts(rng, errors, x) for x in ("a", "b")} for s in (1, 2, 3)}

    low, high, same = make(0.2), make(0.4), make(0.2)
    resampler = Resampler(500)

    rate = resampler.rate(low, ["a", "b"], 0)
    # The mean over seeds of the mean over sources.
    expected = np.mean(
        [
            [low[s][x].counts[:, 0, 0].sum() / low[s][x].counts[:, 0, 1].sum() for x in ("a", "b")]
            for s in low
        ]
    )
    assert rate.value == pytest.approx(float(expected))
    assert rate.low < rate.value < rate.high

    assert resampler.difference(high, low, ["a", "b"], 0).is_certain
    assert not resampler.difference(same, low, ["a", "b"], 0).is_certain

    nothing = resampler.difference(low, low, ["a"], 1)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, 0.0, 0.0)

    # Of the seeds that both have; one says nothing about seeds.
    one = resampler.difference({1: high[1]}, low, ["a"], 0)
    assert one.num_seeds == 1
    assert one.low > 0.0
    assert not one.is_certain


def test_utterances_are_paired_by_their_names() -> None:
    counts = make_counts(np.random.default_rng(2), 0.3, "a")
    # The same, but for one recording that could not be read, in another order.
    names, rows = counts.names[:0:-1], counts.counts[:0:-1]
    other = UtteranceCounts(names, rows)

    difference = Resampler(100).difference({1: {"a": counts}}, {1: {"a": other}}, ["a"], 0)

    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_few_seeds_is_that_of_student() -> None:
    counts = {
        seed: {"a": UtteranceCounts(("u",), np.array([[[errors, 100]] * 2]))}
        for seed, errors in enumerate((10, 20, 30))
    }
    estimate = Resampler(100).rate(counts, ["a"], 0)

    # One utterance: drawn again, it is the same. The standard deviation of the seeds is 0.1.
    assert estimate.value == pytest.approx(0.2)
    assert 0.2 - estimate.low == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=1e-6)
    assert estimate.high - 0.2 == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=1e-6)


def test_regimes_are_compared_seed_by_seed() -> None:
    ours = {1: 5.0, 2: 5.2, 3: 5.1, 4: 0.0}
    theirs = {1: 5.11, 2: 5.29, 3: 5.2}

    difference = compare_seeds(ours, theirs)
    assert difference is not None
    assert difference["value"] == pytest.approx(-0.1)
    assert (difference["num_seeds"], difference["is_certain"]) == (3, True)

    # What diverged is worse, but not by a number; nor is there one without a seed of both.
    assert compare_seeds({1: math.inf}, theirs) is None
    assert compare_seeds({4: 5.0}, theirs) is None


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 40])
def test_intervals_hold_the_mean_as_often_as_they_say(num_seeds: int) -> None:
    draws = np.random.default_rng(1).normal(0.3, 0.1, size=(4000, num_seeds))
    estimates = [estimate_mean(values) for values in draws]

    assert np.mean([e.low <= 0.3 <= e.high for e in estimates]) == pytest.approx(0.95, abs=0.012)
