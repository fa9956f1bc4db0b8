"""Which batches a run is made of, and the readers that the host takes them from."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial

from eqssl_speech.data.batching import BatchPlan, BatchSize, BatchStream, plan_whole
from eqssl_speech.data.episodes import EpisodeLayout, EpisodePlanner, fit_episodes_per_source
from eqssl_speech.data.readers import EpisodeReader, ValidationReader
from eqssl_speech.data.schedule import SourceSchedule
from eqssl_speech.data.transcribed import (
    TranscribedBatch,
    TranscribedLoader,
    TranscribedUtterances,
)
from eqssl_speech.tasks.finetune.config import FinetuneConfig


def batch_seconds(config: FinetuneConfig, num_sources: int, num_ranks: int = 1) -> float:
    """Return the audio of a batch with its padding, in seconds.

    :param config: The configuration.
    :param num_sources: The sources of an update.
    :param num_ranks: The ranks that share the batches of an update.
    """
    section = config.dataset

    num_batches = num_sources * fit_episodes_per_source(
        num_sources, section.batches_per_source, num_ranks
    )

    return section.audio_seconds_per_update / num_batches


def create_planner(
    config: FinetuneConfig,
    train: Sequence[TranscribedUtterances],
    *,
    num_ranks: int = 1,
    rank: int = 0,
) -> EpisodePlanner:
    """Plan the batches of a run on one rank; an episode is one batch.

    :param config: The configuration.
    :param train: The training utterances of each source.
    :param num_ranks: The ranks that share the batches of an update.
    :param rank: This rank.
    """
    section, seed = config.dataset, config.common.seed

    schedule = SourceSchedule(
        [u.num_samples / section.sample_rate for u in train],
        num_per_step=section.sources_per_step,
        alpha=section.sampling_alpha,
        seed=seed,
    )

    num_sources = schedule.num_sources_per_step
    batch_s = batch_seconds(config, num_sources, num_ranks)
    num_samples = int(batch_s * section.sample_rate)

    size = BatchSize(num_samples=num_samples, max_num_samples=num_samples)

    # A source keeps its order whichever other sources there are.
    streams = [
        BatchStream(
            u.utterances.lengths,
            size,
            seed=seed,
            key=zlib.crc32(u.source_name.encode()),
            cropped=False,
        )
        for u in train
    ]

    layout = EpisodeLayout(
        num_batches=1,
        episodes_per_source=fit_episodes_per_source(
            num_sources, section.batches_per_source, num_ranks
        ),
        num_replicas=num_ranks,
        replica=rank,
    )

    return EpisodePlanner(streams, schedule, layout, seed=seed)


def create_train_reader(
    config: FinetuneConfig,
    planner: EpisodePlanner,
    train: Sequence[TranscribedUtterances],
    loader: TranscribedLoader,
) -> EpisodeReader[TranscribedBatch]:
    """Create the reader of the training batches."""
    return EpisodeReader(
        planner,
        partial(loader.load_episode, sources=train),
        num_workers=config.dataset.num_workers,
        num_prefetch=config.dataset.num_prefetch,
    )


def plan_validation_batches(
    config: FinetuneConfig, valid: TranscribedUtterances, *, padded: bool
) -> list[BatchPlan]:
    """Plan the validation batches of a source, the same in every validation and for any number of ranks.

    :param config: The configuration.
    :param valid: The validation utterances.
    :param padded: Whether utterances of several lengths may stand in one batch.
    """
    budget_s = config.validation.audio_seconds_per_batch if padded else 0.0

    return plan_whole(valid.utterances.lengths, int(budget_s * config.dataset.sample_rate))


def create_valid_reader(
    config: FinetuneConfig,
    valid: TranscribedUtterances,
    loader: TranscribedLoader,
    *,
    padded: bool,
    rank: int,
    num_ranks: int,
) -> ValidationReader[TranscribedBatch]:
    """Create the reader of a source's validation batches; ranks share them out whole, so that each batch is computed
    as one rank alone would."""
    plans = plan_validation_batches(config, valid, padded=padded)

    return ValidationReader(
        plans[rank::num_ranks],
        partial(loader.load, source=valid),
        num_steps=-(-len(plans) // num_ranks),
        num_workers=config.dataset.num_workers,
    )
