"""The two sides: the host recipe's model and ours, with the same weights, batch and random numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from fairseq2 import init_fairseq2
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model, get_wav2vec2_model_hub
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.models.wav2vec2.model import Wav2Vec2Loss, Wav2Vec2Output
from fairseq2.models.wav2vec2.vector_quantizer import GumbelWav2Vec2VectorQuantizer
from fairseq2.nn import BatchLayout
from torch import Tensor

from eqssl_speech.models.wav2vec2 import StepwiseQuantizer, accelerate, prepare_model
from eqssl_speech.models.wav2vec2.config import tiny_config

from .job import parse_batch

HOST: Final = "host"
OURS: Final = "ours"

DEFAULT_BATCHES: Final = {"tiny": "8x4s", "base": "4x5s", "large": "1x5s"}

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """What is measured, in words that fit on a command line."""

    size: str
    """The architecture: a key of ``DEFAULT_BATCHES``."""

    device: str
    """``cpu`` or ``cuda``."""

    batch: str
    """Utterances and their length, as in ``2x4s``."""

    dtype: str
    """``float32``, or ``bfloat16`` for autocast; parameters are float32 in any case."""


class Side:
    """A model in training mode and a batch of noise."""

    def __init__(self, name: str, spec: StepSpec) -> None:
        """
        :param name: ``HOST`` for fairseq2's model as it comes, ``OURS`` for the one that our recipe makes of it.
        :param spec: Says what to build. Sides of the same specification have the same weights and the same batch.
        """
        torch.manual_seed(0)

        self.name = name
        self.spec = spec
        self.device = torch.device(spec.device)

        self.model: Wav2Vec2Model = create_wav2vec2_model(create_config(spec.size))

        if name == OURS:
            accelerate(prepare_model(self.model))

        self.model.to(self.device).train()

        shape = parse_batch(spec.batch)
        generator = torch.Generator().manual_seed(1)

        self.waveforms: Tensor = torch.randn(shape, generator=generator).to(self.device)
        self.layout = BatchLayout(shape, None, device=self.device)

    def begin(self, seed: int) -> None:
        """Start a step: no gradients, the random numbers of a seed, the Gumbel temperature of the first step."""
        self.model.zero_grad()

        torch.manual_seed(seed)

        quantizer = self.model.quantizer

        if isinstance(quantizer, StepwiseQuantizer):
            quantizer.set_step_nr(1)
        elif isinstance(quantizer, GumbelWav2Vec2VectorQuantizer):
            quantizer.num_updates.zero_()

    def take_step(self, seed: int) -> tuple[Wav2Vec2Loss, Wav2Vec2Output]:
        """Run forward, and backward from the mean loss of a target; the gradients stay until the next step begins."""
        self.begin(seed)

        with self.autocast():
            loss, output = self.model(self.waveforms, self.layout)
            mean = loss.aggregate / output.num_targets

        mean.backward()

        return loss, output

    def autocast(self) -> AbstractContextManager[object]:
        """Return what the trainer runs a forward pass in: ``trainer.mixed_precision.mode=auto`` unless in float32."""
        dtype = DTYPES[self.spec.dtype]

        if dtype == torch.float32:
            return nullcontext()

        return torch.autocast(self.device.type, dtype)


@cache  # The host can be set up once only.
def create_config(size: str) -> Wav2Vec2Config:
    """Return an architecture.

    :param size: ``tiny``, our smallest with the contrastive task of the base model; ``base``; or ``large``, fairseq2's
        ``large_lv60k``, which has layer norm in its feature extractor.
    """
    if size == "tiny":
        config = tiny_config()

        config.num_distractors = 100
        config.final_dim = 256
        config.quantized_dim = 256

        return config

    if size == "base":
        return Wav2Vec2Config()

    init_fairseq2()

    return get_wav2vec2_model_hub().get_arch_config("large_lv60k")
