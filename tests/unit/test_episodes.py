"""The same episodes make an update however many ranks share them, and a budget that K does not change."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest

from eqssl_speech.data.batching import BatchSize, BatchStream
from eqssl_speech.data.episodes import (
    EpisodeLayout,
    EpisodePlan,
    EpisodePlanner,
    fit_episodes_per_source,
)
from eqssl_speech.data.loading import Utterances
from eqssl_speech.data.schedule import SourceSchedule
from eqssl_speech.error import InputError
from eqssl_speech.tasks.pretrain.config import PretrainConfig, SourcesSection
from eqssl_speech.tasks.pretrain.sources import create_planner

NUM_SOURCES = 3
SIZE = BatchSize(num_samples=64_000, max_num_samples=40_000)


def make_planner(
    *,
    num_per_step: int | None = None,
    num_batches: int = 2,
    seed: int = 2,
    size: BatchSize = SIZE,
    **layout: int,
) -> EpisodePlanner:
    rng = np.random.default_rng(1)

    streams = [
        BatchStream(rng.integers(16_000, 60_000, 40 + 30 * i), size, seed=seed, key=i)
        for i in range(NUM_SOURCES)
    ]

    schedule = SourceSchedule([40.0, 70.0, 100.0], num_per_step=num_per_step, alpha=0.5, seed=seed)

    return EpisodePlanner(
        streams,
        schedule,
        EpisodeLayout(num_batches=num_batches, **{"episodes_per_source": 4} | layout),
        seed=seed,
    )


def take(planner: EpisodePlanner, num_steps: int) -> list[list[EpisodePlan]]:
    """Return the episodes of some outer steps."""
    return [list(islice(planner, planner.num_episodes)) for _ in range(num_steps)]


def without_state(steps: list[list[EpisodePlan]]) -> list[list[EpisodePlan]]:
    return [[replace(plan, end_of_step=None) for plan in plans] for plans in steps]


@pytest.mark.parametrize("num_per_step", [None, 3])
@pytest.mark.parametrize("num_replicas", [2, 4])
def test_replicas_share_out_the_episodes_that_one_would_have(
    num_replicas: int, num_per_step: int | None
) -> None:
    alone = take(make_planner(num_per_step=num_per_step), 20)

    shared = [
        take(make_planner(num_per_step=num_per_step, num_replicas=num_replicas, replica=r), 20)
        for r in range(num_replicas)
    ]

    # They take turns, so the order is that of one replica; batches and seeds are the same.
    dealt = [
        [plan for turn in zip(*(steps[i] for steps in shared), strict=True) for plan in turn]
        for i in range(20)
    ]

    assert without_state(dealt) == without_state(alone)


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_all_replicas_are_at_the_same_place_after_each_step(num_replicas: int) -> None:
    def places(replica: int) -> list[object]:
        planner = make_planner(num_replicas=num_replicas, replica=replica)

        return [plans[-1].end_of_step for plans in take(planner, 10)]

    expected = [plans[-1].end_of_step for plans in take(make_planner(), 10)]

    assert None not in expected

    for replica in range(num_replicas):
        assert places(replica) == expected


def test_only_the_last_episode_of_a_step_ends_it() -> None:
    for number, plans in enumerate(take(make_planner(num_replicas=2, replica=1), 5), start=1):
        assert [plan.end_of_step is None for plan in plans] == [True] * 5 + [False]

        assert plans[-1].end_of_step is not None
        assert plans[-1].end_of_step.step_nr == number


def test_seeds_of_episodes_differ() -> None:
    seeds = [plan.seed for plans in take(make_planner(), 20) for plan in plans]

    assert len(set(seeds)) == len(seeds) == 20 * 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ranks_of_a_replica_read_different_batches_of_the_same_sources() -> None:
    first, second = (
        take(make_planner(replica_size=2, rank_in_replica=rank), 3) for rank in range(2)
    )

    seen: set[object] = set()

    for plans, others in zip(first, second, strict=True):
        assert [p.stream for p in plans] == [p.stream for p in others]

        for plan, other in zip(plans, others, strict=True):
            assert len(plan.batches) == len(other.batches) == 2
            assert plan.seed != other.seed

            batches = {(plan.stream, b) for b in plan.batches + other.batches}

            assert len(batches) == 4
            assert not batches & seen

            seen |= batches

        assert plans[-1].end_of_step == others[-1].end_of_step


def test_ranks_of_a_replica_read_together_what_one_rank_reads_with_twice_the_batches() -> None:
    alone = take(make_planner(num_batches=4), 5)
    shared = [
        take(make_planner(num_batches=2, replica_size=2, rank_in_replica=rank), 5)
        for rank in range(2)
    ]

    for i, plans in enumerate(alone):
        for j, plan in enumerate(plans):
            parts = [steps[i][j].batches for steps in shared]

            assert [b for pair in zip(*parts, strict=True) for b in pair] == list(plan.batches)


@pytest.mark.parametrize("num_per_step", [None, 2])
def test_planner_put_at_a_saved_state_continues_as_the_first_one(num_per_step: int | None) -> None:
    layout = {"num_per_step": num_per_step, "num_replicas": 2, "replica": 1}

    planner = make_planner(**layout)
    take(planner, 7)

    state = planner.state
    continuation = take(planner, 12)

    fresh = make_planner(**layout)
    take(fresh, 2)
    next(fresh)  # The rest of this step must be forgotten.
    fresh.state = state

    assert take(fresh, 12) == continuation


def test_state_at_the_end_of_a_step_is_the_one_its_last_episode_carries() -> None:
    planner = make_planner()

    for plans in take(planner, 5):
        end_of_step = plans[-1].end_of_step

    assert end_of_step == planner.state


@pytest.mark.parametrize("factor", [2, 0.5])
def test_planner_with_batches_of_another_size_is_as_far_in_every_pass(factor: float) -> None:
    first = make_planner()
    take(first, 7)
    state = first.state

    size = replace(SIZE, num_samples=int(SIZE.num_samples * factor))
    other = make_planner(size=size)
    other.state = converted = other.convert(state)

    assert converted.step_nr == 7
    assert {len(set(s.positions)) for s in (state, converted)} == {NUM_SOURCES}

    for (was_pass, was), (is_pass, now), num_was, num_now in zip(
        state.positions, converted.positions, state.batches_per_pass, converted.batches_per_pass
    ):
        assert 0 < was < num_was != num_now
        assert is_pass == was_pass
        assert now / num_now == pytest.approx(was / num_was, abs=0.5 / num_now)

    # What was read is not read again, but for what the other batches have in common with it.
    assert len(take(other, 1)[0]) == other.num_episodes
    assert other.state.step_nr == 8


@pytest.mark.parametrize(
    ("num_sources", "wanted", "num_replicas", "expected"),
    [(3, 1, 1, 1), (3, 1, 2, 2), (4, 1, 2, 1), (3, 2, 4, 4), (6, 1, 4, 2), (1, 3, 2, 4)],
)
def test_episodes_per_source_are_raised_until_they_can_be_dealt_out(
    num_sources: int, wanted: int, num_replicas: int, expected: int
) -> None:
    assert fit_episodes_per_source(num_sources, wanted, num_replicas) == expected


def make_config(**dataset: object) -> PretrainConfig:
    return PretrainConfig(
        dataset=SourcesSection(**({"audio_seconds_per_update": 90.0} | dataset)),
    )


def make_sources() -> list[Utterances]:
    rng = np.random.default_rng(4)

    return [
        Utterances(name, (), rng.integers(16_000, 160_000, 60)) for name in ("en", "ru", "de-at")
    ]


def count_update(config: PretrainConfig, **overrides: int) -> tuple[int, int]:
    """Return the samples and the crops of an update over all ranks."""
    num_replicas = overrides.get("num_replicas", 1)
    replica_size = overrides.get("replica_size", 1)

    num_samples = num_crops = 0

    for rank in range(num_replicas * replica_size):
        planner, _, _ = create_planner(
            config,
            make_sources(),
            **overrides | {"replica": rank // replica_size, "rank_in_replica": rank % replica_size},
        )

        for plan in take(planner, 2)[1]:
            num_samples += sum(len(b.crops) * b.num_samples for b in plan.batches)
            num_crops += sum(len(b.crops) for b in plan.batches)

    return num_samples, num_crops


@pytest.mark.parametrize("num_inner_steps", range(6))
@pytest.mark.parametrize("regime", ["per_source", "mixed"])
def test_inner_steps_change_how_the_budget_is_spent_and_not_its_sum(
    num_inner_steps: int, regime: str
) -> None:
    # The least length is low enough that no batch has to be made smaller to keep its crops above it.
    config = make_config(regime=regime, min_audio_s=0.62)

    num_samples, num_crops = count_update(config, num_inner_steps=num_inner_steps)

    num_batches = 3 * (num_inner_steps + 1)

    # A batch is rounded down to a sample, and each of its crops too.
    assert 0 <= 90 * 16_000 - num_samples < num_crops + num_batches


@pytest.mark.parametrize("num_inner_steps", [0, 1, 3])
@pytest.mark.parametrize(("num_replicas", "replica_size"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_ranks_share_the_budget_of_one(
    num_inner_steps: int, num_replicas: int, replica_size: int
) -> None:
    num_samples, num_crops = count_update(
        make_config(audio_seconds_per_update=120.0),
        num_inner_steps=num_inner_steps,
        num_replicas=num_replicas,
        replica_size=replica_size,
    )

    num_batches = 3 * num_replicas * (num_inner_steps + 1) * replica_size

    assert 0 <= 120 * 16_000 - num_samples < num_crops + num_batches


def test_draws_of_sources_share_the_budget_of_all() -> None:
    num_samples, num_crops = count_update(make_config(sources_per_step=2), num_inner_steps=1)

    assert 0 <= 90 * 16_000 - num_samples < num_crops + 4


def test_source_has_the_same_batches_whichever_others_there_are() -> None:
    english, russian, _ = make_sources()

    both, _, _ = create_planner(make_config(), [english, russian], num_inner_steps=0)
    alone, _, _ = create_planner(
        make_config(audio_seconds_per_update=45.0), [russian], num_inner_steps=0
    )

    theirs = [plan.batches for plans in take(both, 10) for plan in plans if plan.stream == 1]

    assert theirs == [plan.batches for plans in take(alone, 10) for plan in plans]


def test_budget_of_less_than_the_shortest_recording_per_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"audio_seconds_per_update.*set it to 12 or more"):
        create_planner(
            make_config(audio_seconds_per_update=10.0), make_sources(), num_inner_steps=3
        )


@pytest.mark.parametrize(
    ("num_replicas", "replica_size", "num_batches"),
    # Three sources have 64 episodes each on 64 replicas, and one each on one replica.
    [(64, 1, 64 * 3 * 2), (8, 8, 8 * 3 * 2 * 8), (1, 64, 3 * 2 * 64)],
)
def test_budget_that_is_too_small_for_the_ranks_is_refused_on_each_of_them(
    num_replicas: int, replica_size: int, num_batches: int
) -> None:
    least = 1.5 * num_batches

    for rank in (0, num_replicas * replica_size - 1):
        create = partial(
            create_planner,
            train=make_sources(),
            num_inner_steps=1,
            num_replicas=num_replicas,
            replica=rank // replica_size,
            replica_size=replica_size,
            rank_in_replica=rank % replica_size,
        )

        sentence = rf"{num_batches} batches on 64 rank\(s\) share.*set it to {least:g} or more, or take fewer ranks"

        with pytest.raises(InputError, match=sentence):
            create(make_config(audio_seconds_per_update=least - 1.0, min_audio_s=1.5))

        create(make_config(audio_seconds_per_update=least, min_audio_s=1.5))


def test_source_that_fills_no_batch_is_refused_by_name() -> None:
    sources = [*make_sources(), Utterances("tiny-one", (), np.array([16_000, 20_000]))]

    with pytest.raises(InputError, match=r"tiny-one.*do not fill one batch"):
        create_planner(make_config(), sources, num_inner_steps=1)
