"""Batches spend their budget of samples, stay within their utterances, and follow from the seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from numpy.typing import NDArray

from eqssl_speech.data.batching import (
    BatchPlan,
    BatchSize,
    BatchStream,
    fill_group,
    plan_validation,
)

SIZE = BatchSize(num_samples=100_000, max_num_samples=40_000)


def make_lengths(num_utterances: int = 600) -> NDArray[np.int64]:
    """Return lengths of which some exceed the longest crop, for more than one bucket."""
    return np.random.default_rng(3).integers(8_000, 60_000, num_utterances)


def make_stream(lengths: NDArray[np.int64] | None = None, **overrides: object) -> BatchStream:
    if lengths is None:
        lengths = make_lengths()

    return BatchStream(lengths, SIZE, **({"seed": 5, "key": 11} | overrides))


def read_passes(stream: BatchStream, num_passes: int) -> list[list[BatchPlan]]:
    passes: list[list[BatchPlan]] = [[] for _ in range(num_passes + 1)]

    while not passes[-1]:
        plan = next(stream)

        passes[stream.position[0]].append(plan)

    return passes[:-1]


def utterances_of(plans: list[BatchPlan]) -> list[int]:
    return [crop.utterance for plan in plans for crop in plan.crops]


@pytest.mark.parametrize("num_utterances", [9, 100, 600])
def test_every_batch_spends_the_budget_to_less_than_a_sample_per_utterance(
    num_utterances: int,
) -> None:
    stream = make_stream(make_lengths(num_utterances))

    for plan in chain.from_iterable(read_passes(stream, 3)):
        num_samples = len(plan.crops) * plan.num_samples

        assert SIZE.num_samples - len(plan.crops) < num_samples <= SIZE.num_samples


def test_crops_lie_inside_their_utterances_and_are_no_longer_than_allowed() -> None:
    lengths = make_lengths()

    for plan in chain.from_iterable(read_passes(make_stream(lengths), 3)):
        assert 0 < plan.num_samples <= SIZE.max_num_samples

        for crop in plan.crops:
            assert 0 <= crop.start <= lengths[crop.utterance] - plan.num_samples


def test_crops_reach_both_ends_of_a_long_utterance() -> None:
    lengths = np.full(5, 60_000)

    starts = [
        crop.start
        for plan in chain.from_iterable(read_passes(make_stream(lengths), 100))
        for crop in plan.crops
    ]

    last = 60_000 - SIZE.num_samples // 3

    assert min(starts) < 0.02 * last
    assert max(starts) > 0.98 * last


@pytest.mark.parametrize("num_utterances", [3, 9, 100, 600])
@pytest.mark.parametrize("seed", range(5))
def test_pass_has_each_utterance_and_second_crops_of_a_batch_at_most(
    num_utterances: int, seed: int
) -> None:
    lengths = np.random.default_rng(seed).integers(8_000, 60_000, num_utterances)
    lengths[0] = 60_000  # So that the three fill a batch whatever the seed.
    size = BatchSize(num_samples=60_000, max_num_samples=60_000)

    for plans in read_passes(BatchStream(lengths, size, seed=seed, key=11), 3):
        seen = Counter(utterances_of(plans))

        assert sorted(seen) == list(range(num_utterances))

        num_second = seen.total() - len(seen)

        assert num_second < max(len(plan.crops) for plan in plans)


def test_what_is_left_over_is_filled_up_without_shorter_crops() -> None:
    lengths = np.array([50, 40, 30, 9, 8])
    size = BatchSize(num_samples=30, max_num_samples=100)

    for seed in range(20):
        group = fill_group([3, 4], np.random.default_rng(seed).permutation(3), lengths, size)

        # Four crops of 8, the length of the shortest.
        assert group[:2] == [3, 4]
        assert len(group) == len(set(group)) == 4

    # Where all others are shorter, the longest of them come first, and again when all have had their turn.
    assert fill_group([0], np.array([4, 3]), lengths, size) == [0]
    assert fill_group([2], np.array([4, 3]), lengths, replace(size, num_samples=31)) == [2, 3, 4, 3]


def test_what_is_drawn_is_not_filled_up() -> None:
    lengths = np.array([50, 40, 30, 9, 8])
    size = BatchSize(num_samples=30, max_num_samples=100)

    for seed in range(20):
        stream = BatchStream(lengths, size, seed=seed, key=1, weights=np.ones(5))

        for plan in chain.from_iterable(read_passes(stream, 20)):
            assert size.num_samples - len(plan.crops) < len(plan.crops) * plan.num_samples


def test_what_is_left_over_keeps_crops_long_enough() -> None:
    size = BatchSize(num_samples=30, max_num_samples=100, min_num_samples=10)

    assert fill_group([1], np.array([0]), np.array([50, 11]), size) == [1, 0, 0]
    assert fill_group([1], np.array([0]), np.array([50, 14]), replace(size, min_num_samples=12)) == [1, 0]  # fmt: skip


def test_batches_join_utterances_of_like_length() -> None:
    lengths = np.minimum(make_lengths(), SIZE.max_num_samples)

    [plans] = read_passes(make_stream(), 1)

    spreads = [np.ptp(lengths[[c.utterance for c in plan.crops]]) for plan in plans]

    assert np.mean(spreads) < 0.1 * np.ptp(lengths)


@pytest.mark.parametrize("num_utterances", [20, 600])
def test_passes_differ_in_the_order_of_batches_and_in_their_crops(num_utterances: int) -> None:
    first, second, third = read_passes(make_stream(make_lengths(num_utterances)), 3)

    for one, other in ((first, second), (second, third), (first, third)):
        assert utterances_of(one) != utterances_of(other)
        assert not set(one) & set(other)


def test_seed_and_key_tell_streams_apart() -> None:
    [plans] = read_passes(make_stream(), 1)

    assert [plans] == read_passes(make_stream(), 1)
    assert [plans] != read_passes(make_stream(seed=6), 1)
    assert [plans] != read_passes(make_stream(key=12), 1)


@pytest.mark.parametrize("num_read", [0, 1, 17, 200, 777])
@pytest.mark.parametrize("weighted", [False, True])
def test_stream_put_at_a_saved_position_continues_as_the_first_one(
    num_read: int, weighted: bool
) -> None:
    weights = np.linspace(1, 2, 600) if weighted else None

    stream = make_stream(weights=weights)
    for _ in range(num_read):
        next(stream)

    position = stream.position

    num_more = 400  # More than a pass has.
    continuation = [next(stream) for _ in range(num_more)]

    assert stream.position[0] > position[0]

    fresh = make_stream(weights=weights)
    fresh.position = position

    assert [next(fresh) for _ in range(num_more)] == continuation

    # Backwards too, where a pass lies between.
    stream.position = position

    assert [next(stream) for _ in range(num_more)] == continuation


def test_position_at_the_end_of_a_pass_continues_with_the_next_pass() -> None:
    stream = make_stream()
    first, second = read_passes(stream, 2)

    stream.position = (0, len(first))

    assert next(stream) == second[0]


def test_weights_draw_utterances_by_their_share() -> None:
    weights = np.array([1.0] * 300 + [3.0] * 300)
    weights = np.random.default_rng(0).permutation(weights)

    # Of one length, and four to a batch, so that nothing is left over.
    stream = make_stream(np.full(600, 25_000), weights=weights)

    counts = Counter(utterances_of(list(chain.from_iterable(read_passes(stream, 20)))))
    total = counts.total()

    assert total == 20 * 600

    share = sum(n for u, n in counts.items() if weights[u] == 3.0) / total

    # Five standard deviations of a binomial share of 12,000 draws.
    assert share == pytest.approx(0.75, abs=0.02)
    assert max(counts.values()) > 20


def test_stream_of_too_few_samples_for_a_batch_raises() -> None:
    with pytest.raises(ValueError, match="do not fill one batch"):
        BatchStream([40_000, 40_000], SIZE, seed=0, key=0)

    # What is longer than a crop may be does not count.
    with pytest.raises(ValueError, match="do not fill one batch"):
        BatchStream([400_000, 400_000], SIZE, seed=0, key=0)

    BatchStream([40_000, 40_000, 40_000], SIZE, seed=0, key=0)


@pytest.mark.parametrize("num_utterances", [1, 2, 9, 600])
def test_validation_covers_every_utterance_once(num_utterances: int) -> None:
    lengths = make_lengths(num_utterances)

    plans = plan_validation(lengths, SIZE)

    assert sorted(utterances_of(plans)) == list(range(num_utterances))
    assert plans == plan_validation(lengths, SIZE)

    for plan in plans:
        shortest = min(lengths[crop.utterance] for crop in plan.crops)

        assert plan.num_samples == min(shortest, SIZE.max_num_samples)
        assert all(crop.start == 0 for crop in plan.crops)

    for plan in plans[:-1]:
        num_samples = len(plan.crops) * plan.num_samples

        assert SIZE.num_samples <= num_samples < SIZE.num_samples + SIZE.max_num_samples


def test_every_pass_of_a_small_source_is_read_in_other_groups() -> None:
    lengths = np.random.default_rng(0).integers(16_000, 160_000, size=120)
    size = BatchSize(num_samples=60 * 16_000, max_num_samples=250_000)
    stream = BatchStream(lengths, size, seed=1, key=2)

    groups: dict[int, set[frozenset[int]]] = {}
    read: set[int] = set()

    while stream.position[0] < 50:
        pass_nr = stream.position[0]
        group = frozenset(crop.utterance for crop in next(stream).crops)
        groups.setdefault(pass_nr, set()).add(group)
        read |= group

    assert read == set(range(120))
    assert groups[1] != groups[2]
