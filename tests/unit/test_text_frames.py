"""Frames: as many as the model really makes, and as few as CTC's own loss can align."""

from __future__ import annotations

import math

import numpy as np
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from torch.nn.functional import ctc_loss

from eqssl_speech.text.frames import find_impossible, min_frames, num_frames


def test_frames_are_those_of_the_convolutions() -> None:
    descs = Wav2Vec2EncoderConfig().feature_extractor_layer_descs
    layers = [torch.nn.Conv1d(1, 1, kernel, stride) for _, kernel, stride in descs]
    extractor = torch.nn.Sequential(*layers)

    rng = np.random.default_rng(1)

    # Beside every boundary, where dividing by 320 would be wrong.
    for num_samples in {400, 401, 719, 720, 721, 16_000, *rng.integers(400, 40_000, 50).tolist()}:
        assert num_frames(num_samples) == extractor(torch.zeros(1, 1, num_samples)).size(2)


def test_audio_shorter_than_the_receptive_field_has_no_frame() -> None:
    assert [num_frames(n) for n in (0, 1, 9, 399, 400)] == [0, 0, 0, 0, 1]


def test_least_frames_are_where_the_ctc_loss_becomes_finite() -> None:
    rng = np.random.default_rng(2)

    for _ in range(50):
        labels = rng.integers(1, 4, rng.integers(1, 8)).tolist()

        def loss(frames: int, labels: list[int] = labels) -> float:
            log_probs = torch.randn(frames, 1, 4).log_softmax(-1)
            return ctc_loss(
                log_probs,
                torch.tensor([labels]),
                torch.tensor([frames]),
                torch.tensor([len(labels)]),
            ).item()

        assert math.isfinite(loss(min_frames(labels)))
        if min_frames(labels) > 1:
            assert math.isinf(loss(min_frames(labels) - 1))


def test_impossible_utterances_are_found() -> None:
    labels = [[1, 2], [1, 1], [], [3] * 25, [1, 2]]

    # 2 frames, 2 frames of which 3 are needed, none of which none are needed, 49 and 49, and 1 of 2.
    assert find_impossible([720, 720, 0, 16_000, 719], labels) == [1, 4]
