"""Encoders of random weights, as pre-training saves them, and models to load them into."""

from __future__ import annotations

from dataclasses import replace

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
from fairseq2.models.wav2vec2.asr import (
    Wav2Vec2AsrModel,
    create_wav2vec2_asr_model,
)
from torch import Tensor

from eqssl_speech.models.wav2vec2 import prepare_model
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config

# So that the projection of pre-training has the shape of the output layer, and could be taken for it.
VOCAB_SIZE = micro_config().final_dim


def make_tensors(config: Wav2Vec2Config | None = None, seed: int = 1) -> dict[str, Tensor]:
    """What pre-training saves; all at random, as some parameters are initialised alike in every model."""
    model = prepare_model(create_wav2vec2_model(config or micro_config()))

    return randomize(model.state_dict(), seed)


def randomize(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    return {n: torch.randn(t.shape, generator=generator) for n, t in tensors.items()}


def make_model(**overrides: object) -> Wav2Vec2AsrModel:
    torch.manual_seed(0)
    config = fit_asr_config(micro_asr_config(), micro_config().encoder_config, VOCAB_SIZE)
    config = replace(config, encoder_config=replace(config.encoder_config, **overrides))

    return create_wav2vec2_asr_model(config)
