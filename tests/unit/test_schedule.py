"""Which data sources an outer step sees follows from the seed and the sources' seconds of audio alone."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest

from eqssl_speech.data.schedule import SourceSchedule, share_out

DURATIONS_S = (36_000.0, 5_400.0, 720.0, 90.0)


def make_schedule(**overrides: object) -> SourceSchedule:
    return SourceSchedule(DURATIONS_S, **({"num_per_step": 3, "alpha": 0.5, "seed": 7} | overrides))


def test_every_rank_derives_the_same_sources_in_any_order_of_asking() -> None:
    steps = range(1, 200)

    forwards = {step: make_schedule().sources_at(step) for step in steps}

    # Another rank that has resumed half-way, and one that asks backwards.
    other = make_schedule()

    assert {step: other.sources_at(step) for step in reversed(steps)} == forwards
    assert make_schedule().sources_at(100) == forwards[100]


def test_steps_and_seeds_draw_different_sources() -> None:
    draws = [make_schedule().sources_at(step) for step in range(1, 50)]
    others = [make_schedule(seed=8).sources_at(step) for step in range(1, 50)]

    assert len(set(draws)) > 1
    assert draws != others


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_frequencies_follow_the_durations_to_the_power_of_alpha(alpha: float) -> None:
    schedule = make_schedule(alpha=alpha)

    num_steps = 2_000

    counts = Counter(s for step in range(1, num_steps + 1) for s in schedule.sources_at(step))
    total = 3 * num_steps

    weights = np.asarray(DURATIONS_S) ** alpha
    expected = weights / weights.sum()

    found = np.array([counts[i] for i in range(len(DURATIONS_S))])

    assert np.abs(found - expected * total).max() < 3
    assert schedule.shares == pytest.approx(tuple(expected))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rehearsed_sources_have_their_share_together(alpha: float) -> None:
    settings = {"rehearsed": [0, 3], "rehearsal_share": 0.2}
    schedule = make_schedule(alpha=alpha, **settings)

    shares = share_out(DURATIONS_S, alpha, **settings)
    weights = np.asarray(DURATIONS_S) ** alpha

    assert shares[[0, 3]].sum() == pytest.approx(0.2)
    assert shares[[1, 2]].sum() == pytest.approx(0.8)
    assert shares[0] / shares[3] == pytest.approx(weights[0] / weights[3])
    assert shares[1] / shares[2] == pytest.approx(weights[1] / weights[2])
    assert schedule.shares == pytest.approx(tuple(shares))

    counts = Counter(s for step in range(1, 2_001) for s in schedule.sources_at(step))

    assert abs(counts[0] + counts[3] - 0.2 * 6_000) < 4


@pytest.mark.parametrize("num_per_step", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_source_has_had_its_share_of_turns_at_any_time(num_per_step: int, seed: int) -> None:
    schedule = make_schedule(num_per_step=num_per_step, seed=seed)
    counts = np.zeros(len(DURATIONS_S))

    for step in range(1, 400):
        np.add.at(counts, list(schedule.sources_at(step)), 1)

        assert np.abs(counts - np.array(schedule.shares) * num_per_step * step).max() < 5


@pytest.mark.parametrize(("num_sources", "num_per_step"), [(4, 2), (24, 4), (25, 12)])
def test_any_two_sources_meet_in_a_step(num_sources: int, num_per_step: int) -> None:
    durations_s = np.random.default_rng(0).uniform(1.0, 3.0, num_sources)
    schedule = SourceSchedule(durations_s, num_per_step=num_per_step, alpha=1.0, seed=3)

    pairs = Counter(
        pair for step in range(1, 4000) for pair in combinations(schedule.sources_at(step), 2)
    )

    expected = 4000 * num_per_step * (num_per_step - 1) * np.outer(schedule.shares, schedule.shares)

    # Neighbours, and a source with itself, meet less often than independent draws would.
    for pair in combinations_with_replacement(range(num_sources), 2):
        assert 0.3 * expected[pair] / (1 + (pair[0] == pair[1])) < pairs[pair] < 2 * expected[pair]


def test_step_has_as_many_draws_as_asked_for_with_repetitions() -> None:
    schedule = make_schedule(num_per_step=6)

    draws = schedule.sources_at(1)

    assert schedule.num_sources_per_step == len(draws) == 6
    assert set(draws) <= set(range(4))
    assert list(draws) == sorted(draws)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_without_a_number_every_source_has_its_turn_once_in_each_step(alpha: float) -> None:
    schedule = make_schedule(num_per_step=None, alpha=alpha)

    assert schedule.num_sources_per_step == 4
    assert schedule.shares == pytest.approx((0.25,) * 4)

    for step in (1, 2, 99):
        assert schedule.sources_at(step) == (0, 1, 2, 3)
