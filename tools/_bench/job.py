"""The job that every variant does: one outer step on K+1 batches, with one model and one AdamW."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import Module
from torch.optim import AdamW, Optimizer

from eqssl_speech.models.wav2vec2 import prepare_model
from eqssl_speech.models.wav2vec2.config import tiny_config

SAMPLE_RATE: Final = 16_000

SIZES: Final = {"base": Wav2Vec2Config, "tiny": tiny_config}


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What is measured, in words that fit on a command line."""

    size: str
    """The architecture: a key of ``SIZES``."""

    device: str
    """``cpu`` or ``cuda``."""

    batch: str
    """Utterances and their length, as in ``2x4s``."""

    num_inner_steps: int
    """K."""

    inner_lr: float
    """The step size of the inner loop."""


class Job:
    """A model, an optimizer and K+1 batches; the loss of batch k is the same function of the parameters every time."""

    def __init__(self, spec: JobSpec) -> None:
        """:param spec: Says what to build."""
        torch.manual_seed(0)

        self.spec = spec
        self.device = torch.device(spec.device)
        self.model: Wav2Vec2Model = create_wav2vec2_model(SIZES[spec.size]()).to(self.device)

        prepare_model(self.model)

        self.model.train()

        self.params = list(self.model.parameters())
        self.optimizer: Optimizer = AdamW(self.params, lr=1e-5)
        self.set_num_inner_steps(spec.num_inner_steps)

    def set_num_inner_steps(self, num_inner_steps: int) -> None:
        """Draw K+1 batches of noise."""
        batch_size, num_samples = parse_batch(self.spec.batch)
        generator = torch.Generator().manual_seed(1)

        self.num_inner_steps = num_inner_steps
        self._batches = [
            torch.randn(batch_size, num_samples, generator=generator).to(self.device)
            for _ in range(num_inner_steps + 1)
        ]
        self._layout = BatchLayout((batch_size, num_samples), None, device=self.device)

    def loss(self, k: int, module: Module | None = None) -> Tensor:
        """Return the mean loss of batch k.

        Masks, dropout and distractors are drawn from a seed of their own, so that every variant meets the same ones.

        :param k: Which batch, from 0 to K.
        :param module: What stands for the model, if a library wants its own copy called.
        """
        return self.reduce(*self.begin(k, module or self.model))

    def begin(self, k: int, module: Module) -> tuple[Module, Tensor, BatchLayout]:
        """Seed the random numbers of batch k and return what to call with what."""
        torch.manual_seed(1000 + k)

        return module, self._batches[k], self._layout

    @staticmethod
    def reduce(module: Module, seqs: Tensor, layout: BatchLayout) -> Tensor:
        """Run the model and divide its loss by the number of targets."""
        loss, output = module(seqs, layout)
        mean: Tensor = loss.aggregate / output.num_targets

        return mean

    @property
    def param_bytes(self) -> int:
        """How many bytes the parameters have."""
        return sum(p.numel() * p.element_size() for p in self.params)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def parse_batch(text: str) -> tuple[int, int]:
    """Read ``2x4s``.

    :returns: The number of utterances and of samples in each.
    :raises ValueError: If it is something else.
    """
    match = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)s", text)
    if match is None:
        raise ValueError(f"`--batch` must be of the form 2x4s, but is {text} instead.")

    return int(match[1]), int(float(match[2]) * SAMPLE_RATE)
