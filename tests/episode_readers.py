"""What the tests of readers share: a configuration, a corpus of short recordings, and the end of reading ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from eqssl_speech.data.audio import AudioFormat
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.readers import EpisodeReader, ValidationReader
from eqssl_speech.tasks.pretrain.config import PretrainConfig, SourcesSection, ValidationSection

FORMAT = AudioFormat()

open_readers: list[EpisodeReader[Episode] | ValidationReader[Episode]] = []


def close_readers() -> None:
    """Stop what is read ahead; threads that outlive the interpreter bring it down."""
    while open_readers:
        open_readers.pop().close()


def make_config(corpus: Path, **dataset: object) -> PretrainConfig:
    """Return a configuration by which a pass over a source is some three batches, of which a step takes two."""
    section = {
        "audio_seconds_per_update": 4.0,
        "min_audio_s": 0.2,
        "num_workers": 2,
        "num_prefetch": 6,
    }

    return PretrainConfig(
        dataset=SourcesSection(corpus=corpus, **section | dataset),
        validation=ValidationSection(num_adaptation_steps=2, audio_seconds_per_batch=1.0),
    )


def assert_same(steps: Sequence[Sequence[Episode]], others: Sequence[Sequence[Episode]]) -> None:
    assert len(steps) == len(others)

    for episodes, other_episodes in zip(steps, others):
        assert [e.source_name for e in episodes] == [e.source_name for e in other_episodes]
        assert [e.seed for e in episodes] == [e.seed for e in other_episodes]

        for episode, other in zip(episodes, other_episodes):
            assert len(episode.batches) == len(other.batches)

            for batch, other_batch in zip(episode.batches, other.batches):
                assert torch.equal(batch.seqs, other_batch.seqs)


def make_short_corpus(make_corpus: Callable[..., Path], directory: Path) -> Path:
    return make_corpus(
        directory,
        num_valid=5,
        min_duration_s=0.35,
        max_duration_s=0.7,
        formats=("wav", "flac"),
        slices=True,
    )
