"""Readers of validation data: what is evaluated, and what is adapted on before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from eqssl_speech.data.batching import BatchSize, BatchStream, plan_validation
from eqssl_speech.data.episode_loading import load_validation_episode
from eqssl_speech.data.episodes import Episode, EpisodePlan
from eqssl_speech.data.loading import BatchLoader, Utterances
from eqssl_speech.data.readers import ValidationReader
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.sources import create_stream


def create_valid_reader(
    config: PretrainConfig,
    train: Utterances,
    valid: Utterances,
    loader: BatchLoader,
    *,
    rank: int,
    num_ranks: int,
) -> ValidationReader[Episode]:
    """Create the reader of a source's validation episodes; ranks share them out.

    The batches to adapt on are the same in each validation, whatever the seed of the run.
    """
    section = config.validation

    batches = plan_validation(valid.lengths, _validation_size(config))[: section.max_num_batches]
    plans = []

    if section.num_adaptation_steps > 0:
        stream = _create_adaptation_stream(config, train)

    for batch in batches:
        adapt = tuple(next(stream) for _ in range(section.num_adaptation_steps))

        plans.append((EpisodePlan(0, adapt), EpisodePlan(0, (batch,))))

    return _read_plans(
        config, train, valid, loader, plans[rank::num_ranks], -(-len(plans) // num_ranks)
    )


def create_adaptation_reader(
    config: PretrainConfig,
    train: Utterances,
    valid: Utterances,
    loader: BatchLoader,
    *,
    num_steps: int,
    num_batches: int,
) -> ValidationReader[Episode]:
    """Create the reader of one episode: batches to step on, the same whatever the model, and then validation batches,
    spread over the recordings by length."""
    batches = plan_validation(valid.lengths, _validation_size(config))
    chosen = np.linspace(0, len(batches) - 1, min(num_batches, len(batches))).round().astype(int)

    stream = _create_adaptation_stream(config, train)
    adapt = tuple(next(stream) for _ in range(num_steps))
    plan = (EpisodePlan(0, adapt), EpisodePlan(0, tuple(batches[i] for i in chosen)))

    return _read_plans(config, train, valid, loader, [plan], 1)


def _validation_size(config: PretrainConfig) -> BatchSize:
    rate = config.dataset.sample_rate

    return BatchSize(
        num_samples=int(config.validation.audio_seconds_per_batch * rate),
        max_num_samples=int(config.dataset.max_audio_s * rate),
    )


def _create_adaptation_stream(config: PretrainConfig, train: Utterances) -> BatchStream:
    size = _validation_size(config)

    # A small source is adapted on all that it has.
    clipped = np.minimum(train.lengths, size.max_num_samples)
    num_samples = min(size.num_samples, int(clipped.sum()) // 4)

    return create_stream(
        train,
        BatchSize(num_samples=num_samples, max_num_samples=size.max_num_samples),
        0,
        config.dataset.sample_rate,
    )


def _read_plans(
    config: PretrainConfig,
    train: Utterances,
    valid: Utterances,
    loader: BatchLoader,
    plans: Sequence[tuple[EpisodePlan, EpisodePlan]],
    num_steps: int,
) -> ValidationReader[Episode]:
    return ValidationReader(
        plans,
        partial(
            load_validation_episode,
            train=train,
            valid=valid,
            loader=loader,
            skip_dead=config.dataset.on_dead_source == "skip",
        ),
        num_steps=num_steps,
        num_workers=config.dataset.num_workers,
    )
