"""Everything that is settled about the data before anything is written or trained."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from eqssl_speech.data.batching import BatchSize, BatchStream
from eqssl_speech.data.check import SourceReport
from eqssl_speech.data.corpus import Corpus, DataSource, load_corpus, select_sources
from eqssl_speech.data.episode_loading import load_episode
from eqssl_speech.data.episodes import (
    Episode,
    EpisodeLayout,
    EpisodePlanner,
    fit_episodes_per_source,
)
from eqssl_speech.data.loading import (
    BatchLoader,
    Utterances,
    list_utterances,
)
from eqssl_speech.data.manifest import Manifest
from eqssl_speech.data.readers import EpisodeReader
from eqssl_speech.data.schedule import SourceSchedule, share_out
from eqssl_speech.error import InputError
from eqssl_speech.labels import LabelStore
from eqssl_speech.tasks.pretrain.config import PretrainConfig, SourcesSection
from eqssl_speech.tasks.recordings import check_recordings

_SPLITS: Final = ("train", "valid")

MIXED: Final = "mixed"
"""The name under which batches of all sources are trained and logged."""


@dataclass(frozen=True)
class CheckedSources:
    """The sources of a run, whose files have been looked at."""

    corpus: Corpus
    train: tuple[Utterances, ...]
    valid: tuple[Utterances, ...]
    reports: tuple[SourceReport, ...]
    """Of the training and the validation split of each source in turn."""

    labels: LabelStore | None = None
    """The labels of their frames, if the configuration names some."""

    num_unlabelled: Mapping[str, int] = field(default_factory=dict)
    """How many good recordings of a source are left out because they have no labels."""


def check_sources(section: SourcesSection) -> CheckedSources:
    """Look at the header of every recording of the configured sources.

    :raises InputError: If a source cannot be trained on.
    """
    if section.corpus is None:
        raise InputError(
            "`dataset.corpus` is not set: add `--config dataset.corpus=DIR`, where DIR holds one folder of "
            "manifests per source (`eqssl prepare` makes one)."
        )

    corpus = select_sources(load_corpus(section.corpus), section.sources)

    checked = [
        (source, *check_recordings(source, split, section))
        for source in corpus.sources
        for split in _SPLITS
    ]

    labels = _open_labels(section, [(s.name, r.split, manifest) for s, manifest, r in checked])

    splits: dict[str, list[Utterances]] = {split: [] for split in _SPLITS}
    num_unlabelled: Counter[str] = Counter()

    for source, manifest, report in checked:
        utterances = _list_labelled(source, manifest, report, labels, section.max_bad_share)

        splits[report.split].append(utterances)
        num_unlabelled[source.name] += report.num_good - len(utterances.lengths)

    return CheckedSources(
        corpus,
        tuple(splits["train"]),
        tuple(splits["valid"]),
        tuple(report for _, _, report in checked),
        labels,
        +num_unlabelled,
    )


def _open_labels(
    section: SourcesSection, manifests: Sequence[tuple[str, str, Manifest]]
) -> LabelStore | None:
    if section.labels is None:
        return None

    if not section.labels:
        raise InputError(
            "`dataset.labels` names no directory: name one that `eqssl labels` made, or leave it out for a model that "
            "needs no labels."
        )

    directories = [section.labels] if isinstance(section.labels, Path) else section.labels

    return LabelStore.open(directories, manifests, sample_rate=section.sample_rate)


def _list_labelled(
    source: DataSource,
    manifest: Manifest,
    report: SourceReport,
    labels: LabelStore | None,
    max_bad_share: float,
) -> Utterances:
    """List the good utterances, of which those that could not be read when labels were made have none."""
    good = [
        (entry_nr, num_samples)
        for entry_nr, num_samples in zip(report.good, report.num_samples, strict=True)
        if labels is None or labels.is_labelled(manifest, entry_nr)
    ]

    num_lacking, num_entries = report.num_good - len(good), len(manifest.entries)

    if num_lacking > 0 and num_entries - len(good) > max_bad_share * num_entries:
        raise InputError(
            f"{report.manifest_file}: {num_lacking} of its {num_entries} recordings have no labels, as they could not "
            f"be read when labels were made, and {report.num_bad} cannot be used, more than `dataset.max_bad_share` "
            f"({max_bad_share:g}) allows; make labels into another directory with `eqssl labels` (with `--codebook` of "
            "the same clusters)."
        )

    return list_utterances(source, manifest, [i for i, _ in good], [n for _, n in good])


def create_planner(
    config: PretrainConfig,
    train: Sequence[Utterances],
    *,
    num_inner_steps: int,
    num_replicas: int = 1,
    replica: int = 0,
    replica_size: int = 1,
    rank_in_replica: int = 0,
) -> tuple[EpisodePlanner, EpisodeLayout, list[Utterances]]:
    """Plan the episodes of a run on one rank.

    :returns: The planner, how episodes are dealt out, and the utterances of each of its streams.
    :raises InputError: If the budget of audio does not fit the sources.
    """
    section = config.dataset
    rehearsed = find_rehearsed(section, [u.source_name for u in train])
    streams_utterances = list(train)
    episodes_per_source = section.episodes_per_source
    weights: list[np.ndarray | None] = [None] * len(train)

    if section.regime == MIXED:
        # As many batches as `per_source` has, so that an update costs the same.
        num_sources = section.sources_per_step or len(train)
        episodes_per_source = num_sources * fit_episodes_per_source(
            num_sources, episodes_per_source, num_replicas
        )
        streams_utterances = [Utterances.join(MIXED, train)]
        weights = [_mixture(train, section, rehearsed)]
        schedule = SourceSchedule([1.0], num_per_step=None, alpha=1.0, seed=config.common.seed)
    else:
        schedule = SourceSchedule(
            [u.num_samples / section.sample_rate for u in train],
            num_per_step=section.sources_per_step,
            alpha=section.sampling_alpha,
            seed=config.common.seed,
            rehearsed=rehearsed,
            rehearsal_share=section.rehearsal_share,
        )

    num_sources = schedule.num_sources_per_step

    layout = EpisodeLayout(
        num_batches=num_inner_steps + 1,
        episodes_per_source=fit_episodes_per_source(num_sources, episodes_per_source, num_replicas),
        num_replicas=num_replicas,
        replica=replica,
        replica_size=replica_size,
        rank_in_replica=rank_in_replica,
    )

    size = _batch_size(section, layout, num_sources)

    streams = [
        create_stream(utterances, size, config.common.seed, section.sample_rate, w)
        for utterances, w in zip(streams_utterances, weights)
    ]

    planner = EpisodePlanner(streams, schedule, layout, seed=config.common.seed)

    return planner, layout, streams_utterances


def find_rehearsed(section: SourcesSection, names: Sequence[str]) -> list[int]:
    """Find the sources that are rehearsed.

    :param section: The configuration.
    :param names: The names of all sources of the run.
    :returns: The indices of those in ``rehearsal_sources``.
    :raises InputError: If one is not among them, or nothing else is.
    """
    for name in section.rehearsal_sources:
        if name not in names:
            raise InputError(
                f"`dataset.rehearsal_sources` names {name}, which is no source of this run; its sources are "
                f"{', '.join(names)}."
            )

    rehearsed = [i for i, name in enumerate(names) if name in section.rehearsal_sources]

    if rehearsed and len(rehearsed) == len(names):
        raise InputError(
            "`dataset.rehearsal_sources` names all sources of this run, so that nothing is new to the model; name "
            "only those that it was trained on before, or none."
        )

    return rehearsed


def share_sources(section: SourcesSection, train: Sequence[Utterances]) -> np.ndarray:
    """Return the share of the audio that each source gets where sources are mixed."""
    rehearsed = find_rehearsed(section, [u.source_name for u in train])

    return share_out(
        [u.num_samples / section.sample_rate for u in train],
        section.sampling_alpha,
        rehearsed,
        section.rehearsal_share,
    )


def _mixture(
    train: Sequence[Utterances], section: SourcesSection, rehearsed: Sequence[int]
) -> np.ndarray | None:
    if section.sampling_alpha == 1.0 and not rehearsed:
        return None

    shares = share_sources(section, train)

    # An utterance is drawn so often that its source gets its share of the audio.
    return np.concatenate(
        [np.full(len(u.lengths), share / u.num_samples) for u, share in zip(train, shares)]
    )


def _batch_size(section: SourcesSection, layout: EpisodeLayout, num_sources: int) -> BatchSize:
    batches_per_step = layout.batches_per_step(num_sources)
    num_ranks = layout.num_replicas * layout.replica_size

    batch_s = section.audio_seconds_per_update / batches_per_step

    if batch_s < section.min_audio_s:
        least = section.min_audio_s * batches_per_step

        raise InputError(
            f"`dataset.audio_seconds_per_update` is {section.audio_seconds_per_update:g}, which its "
            f"{batches_per_step} batches on {num_ranks} rank(s) share, less than `dataset.min_audio_s` "
            f"({section.min_audio_s:g} s) each; set it to {least:g} or more"
            + (", or take fewer ranks." if num_ranks > 1 else ".")
        )

    return BatchSize(
        num_samples=int(batch_s * section.sample_rate),
        max_num_samples=int(section.max_audio_s * section.sample_rate),
        min_num_samples=int(section.min_audio_s * section.sample_rate),
    )


def create_stream(
    utterances: Utterances,
    size: BatchSize,
    seed: int,
    sample_rate: int,
    weights: np.ndarray | None = None,
) -> BatchStream:
    """Create the endless batches of a source.

    :param utterances: The source.
    :param size: The size of a batch.
    :param seed: The seed of their order.
    :param sample_rate: For messages.
    :param weights: How often each utterance is drawn beside the others; by default alike.
    :raises InputError: If the source does not fill a batch.
    """
    # A source keeps its order whichever other sources there are.
    key = zlib.crc32(utterances.source_name.encode())

    try:
        return BatchStream(utterances.lengths, size, seed=seed, key=key, weights=weights)
    except ValueError:
        raise InputError(
            f"{utterances.source_name}: its {utterances.num_samples / sample_rate:.1f} s of training audio do not fill "
            f"one batch of {size.num_samples / sample_rate:.1f} s; lower `dataset.audio_seconds_per_update`, or "
            "leave the source out of `dataset.sources`."
        ) from None


def create_train_reader(
    config: PretrainConfig,
    planner: EpisodePlanner,
    streams_utterances: Sequence[Utterances],
    loader: BatchLoader,
    labels_digest: str | None = None,
) -> EpisodeReader[Episode]:
    """Create the reader of the training episodes."""
    section = config.dataset

    return EpisodeReader(
        planner,
        partial(
            load_episode,
            sources=streams_utterances,
            loader=loader,
            skip_dead=section.on_dead_source == "skip",
        ),
        num_workers=section.num_workers,
        num_prefetch=section.num_prefetch,
        labels_digest=labels_digest,
    )
