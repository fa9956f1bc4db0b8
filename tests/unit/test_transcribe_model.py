"""A real model, of random weights: its frames lie where the plan says, alone, in a batch and in windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq2.models.wav2vec2.asr import create_wav2vec2_asr_model
from numpy.typing import NDArray
from spelled_audio import TOKENIZER

from eqssl_speech.data.manifest import ManifestEntry
from eqssl_speech.models.wav2vec2.asr import micro_asr_config
from eqssl_speech.tasks.recognizer import Recognizer
from eqssl_speech.tasks.transcribe.emission import EmissionPart, Emitter
from eqssl_speech.tasks.transcribe.planning import (
    AudioItem,
    EmissionOptions,
    make_grid,
    plan_batches,
)

MakeSpeech = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(3)

    config = replace(micro_asr_config(), target_vocab_size=TOKENIZER.vocab_size)
    model = create_wav2vec2_asr_model(config).eval()

    return Recognizer(
        model, config, TOKENIZER, 16_000, (("x", "en"),), "random", torch.device("cpu")
    )


@pytest.mark.parametrize("num_samples", [400, 719, 720, 1039, 1040, 16_000, 16_123])
def test_frames_are_as_many_as_planned(
    recognizer: Recognizer, make_speech: MakeSpeech, num_samples: int
) -> None:
    speech = make_speech(1, 2.0)[:num_samples]

    (emission,) = recognizer.emit([speech])

    assert emission.size(0) == make_grid(recognizer).count(num_samples)


def test_every_utterance_of_a_batch_has_its_own_number_of_frames(
    recognizer: Recognizer, make_speech: MakeSpeech
) -> None:
    waveforms = [make_speech(seed, 0.5 + 0.37 * seed) for seed in range(4)]

    for waveform, emission in zip(waveforms, recognizer.emit(waveforms), strict=True):
        (alone,) = recognizer.emit([waveform])

        assert emission.size(0) == make_grid(recognizer).count(len(waveform))
        # The sums of a padded batch have another order.
        torch.testing.assert_close(emission, alone, atol=1e-3, rtol=1e-3)


def test_parts_of_a_long_recording_are_the_frames_of_its_windows(
    recognizer: Recognizer,
    make_speech: MakeSpeech,
    write_audio: Callable[..., int],
    tmp_path: Path,
) -> None:
    speech = make_speech(5, 17.3)
    length = write_audio(tmp_path / "a.wav", speech)

    item = AudioItem(tmp_path / "a.wav", ManifestEntry("a.wav", length), length)
    options = EmissionOptions(max_segment_s=4.0, batch_s=8.0, num_readers=2)

    (unit,) = plan_batches([length], recognizer, options)
    parts = list(Emitter(recognizer, [item], options).emit(unit))

    assert len(parts) > 4

    grid = make_grid(recognizer)
    windows = [piece.window for batch in unit for piece in batch]

    frame = 0
    for part, window in zip(parts, windows, strict=True):
        assert isinstance(part, EmissionPart)
        assert part.start == frame

        # Written with 16 bits.
        start = window.start * grid.hop
        (emission,) = recognizer.emit([speech[start : start + grid.extent(window.num_frames)]])

        inside = emission[frame - window.start :][: len(part.log_probs)]
        torch.testing.assert_close(part.log_probs, inside, atol=2e-2, rtol=2e-2)

        # A twelfth of a window, at least, is heard before and after what is taken of it.
        frame += len(part.log_probs)
        assert part.start - window.start >= (0 if window is windows[0] else 16)
        assert window.stop - frame >= (0 if window is windows[-1] else 16)

    assert frame == grid.count(length)
