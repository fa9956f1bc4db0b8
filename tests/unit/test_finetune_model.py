"""Masks that any utterance can have: the host stops at one that it cannot mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig
from fairseq2.nn.utils.mask import compute_row_mask

from eqssl_speech.error import InputError
from eqssl_speech.tasks.finetune.model import fit_masking


def make_config(span_len: int, probability: float) -> Wav2Vec2AsrConfig:
    return replace(
        Wav2Vec2AsrConfig(),
        temporal_mask_span_len=span_len,
        max_temporal_mask_prob=probability,
        min_num_temporal_mask_spans=99,
    )


# In float64 0.05 / 11 * 220 is 1, in the host's float32 it is less.
@pytest.mark.parametrize(
    ("span_len", "probability", "num_frames"),
    [(11, 0.05, 221), (11, 0.2, 56), (10, 0.65, 30), (5, 0.5, 101), (7, 0.3, 211)],
)
def test_shortest_utterance_can_be_masked(
    span_len: int, probability: float, num_frames: int
) -> None:
    config = fit_masking(make_config(span_len, probability), num_frames)

    compute_row_mask(
        (2, num_frames),
        span_len,
        probability,
        row_lens=torch.tensor([num_frames, num_frames]),
        min_num_spans=config.min_num_temporal_mask_spans,
    )

    # As many as there can be are kept.
    with pytest.raises(ValueError, match="min_num_spans"):
        compute_row_mask(
            (2, num_frames),
            span_len,
            probability,
            row_lens=torch.tensor([num_frames, num_frames]),
            min_num_spans=config.min_num_temporal_mask_spans + 1,
        )


def test_a_probability_of_zero_is_refused_with_the_key_to_set() -> None:
    with pytest.raises(InputError, match=r"max_temporal_mask_prob.*use_masking` to false"):
        fit_masking(make_config(10, 0.0), 30)


def test_without_masking_nothing_is_looked_at() -> None:
    config = replace(make_config(64, 0.0), use_masking=False)

    assert fit_masking(config, 30) is config
