"""The model families that the method trains: a small model of each, its loss and a batch that it takes.

Tests of the method know no more of a family than its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.models.wav2vec2 import (
    Wav2Vec2Model,
    apply_fsdp_to_wav2vec2,
    create_wav2vec2_model,
)
from torch import Tensor
from torch.nn import Module

from eqssl_speech.criteria.base import Criterion, LossSection
from eqssl_speech.data.labelled import LabelledBatch, SpeechBatch
from eqssl_speech.models.hubert import HubertModel, apply_fsdp_to_hubert, create_hubert_model
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.wav2vec2 import accelerate, prepare_model
from eqssl_speech.models.wav2vec2.config import micro_config as micro_wav2vec2_config
from eqssl_speech.tasks.pretrain.recipe import create_criterion
from eqssl_speech.text.frames import CONVOLUTIONS, num_frames

FAMILIES: Final = ("wav2vec2", "hubert")

NUM_CODES: Final = (16, 7)
"""Of the label sets that a small HuBERT predicts; two of them, so that neither is taken for the other."""

UNMASKED_WEIGHT: Final = 0.5
"""Of HuBERT's unmasked frames, so that all terms of its loss take part."""


def make_micro_model(family: str, *, fast: bool = True, **settings: Any) -> Module:
    """Make a model of the architecture ``micro``, prepared as a pre-training run prepares it.

    :param family: One of :data:`FAMILIES`.
    :param fast: Whether it computes faster than the host does.
    :param settings: Of its configuration or of its encoder's.
    """
    config: Any = micro_hubert_config(NUM_CODES) if family == "hubert" else micro_wav2vec2_config()

    for name, value in settings.items():
        owner = config if hasattr(config, name) else config.encoder_config
        setattr(owner, name, value)

    make = create_hubert_model if family == "hubert" else create_wav2vec2_model
    model = prepare_model(make(config))

    return accelerate(model) if fast else model


def make_criterion(model: Module) -> Criterion:
    """Make the loss of a model, of which all terms take part.

    :param model: Not a wrapper of it.
    """
    is_hubert = isinstance(model, HubertModel)

    return create_criterion(
        model, LossSection(unmasked_weight=UNMASKED_WEIGHT if is_hubert else 0.0)
    )


def shard(model: Module, wrapper: Callable[..., Module]) -> Module:
    """Shard the layers of a model one by one.

    :param model: Changed in place.
    :param wrapper: The host's; it wraps the model itself afterwards.
    """
    if isinstance(model, HubertModel):
        return apply_fsdp_to_hubert(model, "layer", wrapper)

    assert isinstance(model, Wav2Vec2Model)

    return apply_fsdp_to_wav2vec2(model, "layer", wrapper)


def make_batch(
    family: str, waves: Tensor, seq_lens: list[int] | None = None, *, seed: int = 0
) -> SpeechBatch:
    """Make a batch of waveforms, with labels where the family predicts some.

    :param family: One of :data:`FAMILIES`.
    :param waves: The waveforms. *Shape:* ``(N, S)``.
    :param seq_lens: The length of each; by default they are all the same.
    :param seed: Chooses the labels.
    """
    audio = SequenceBatch(waves, seq_lens)

    if family != "hubert":
        return audio

    labels = make_labels(waves.shape, seed=seed)

    return LabelledBatch(audio, labels.to(waves.device))


def make_labels(
    shape: Sequence[int],
    num_codes: Sequence[int] = NUM_CODES,
    convolutions: Sequence[tuple[int, int]] = CONVOLUTIONS,
    *,
    seed: int = 0,
) -> Tensor:
    """Draw a label of each set for each frame.

    :param shape: Of the waveforms: ``(*, S)``.
    :param num_codes: The number of codes of each of L label sets.
    :param convolutions: Kernel and stride of each convolution of the model.
    :returns: *Shape:* ``(L, *, T)``.
    """
    generator = torch.Generator().manual_seed(seed)
    *sizes, num_samples = shape
    frames = (*sizes, num_frames(num_samples, convolutions))

    return torch.stack([torch.randint(n, frames, generator=generator) for n in num_codes])
