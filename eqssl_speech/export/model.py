"""The model that is exported, as it is computed here: the side that every format is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from fairseq2.models.transformer import TransformerEncoder, TransformerFrontend
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import Module

from eqssl_speech.data.transcribed import pad_waveforms
from eqssl_speech.models.wav2vec2 import expects_normalized_audio


@final
@dataclass(frozen=True)
class Outputs:
    """What a model makes of some recordings, on the CPU in float32."""

    features: list[Tensor]
    """The output of the encoder for each. *Shape:* ``(T, M)``."""

    logits: list[Tensor] | None
    """Of a recogniser, the scores of the labels for each, before any softmax. *Shape:* ``(T, V)``."""


class Runner(Protocol):
    """Computes a model, ours or an exported one."""

    def run(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings in one batch, padded to the longest.

        :param waveforms: Speech at the model's sample rate, as it was recorded, not normalised. *Shape:* ``(S,)`` each.
        """


@final
class SpeechModel(Module):
    """An encoder, with an output layer if it is a recogniser's; in evaluation mode, float32."""

    def __init__(
        self,
        config: Wav2Vec2EncoderConfig,
        frontend: TransformerFrontend,
        encoder: TransformerEncoder,
        final_proj: Module | None,
    ) -> None:
        """
        :param config: The configuration of the encoder.
        :param frontend: The convolutions and what comes before the layers.
        :param encoder: The layers.
        :param final_proj: The output layer of a recogniser.
        """
        super().__init__()

        self.config = config
        self.encoder_frontend = frontend
        self.encoder = encoder
        self.final_proj = final_proj

        self.eval()

    def forward(
        self, seqs: Tensor, layout: BatchLayout
    ) -> tuple[Tensor, Tensor | None, BatchLayout]:
        """
        :param seqs: Waveforms, normalised if :attr:`normalizes`. *Shape:* ``(N, S)``.
        :param layout: Their lengths.
        :returns: The output of the encoder, *Shape:* ``(N, T, M)``; that of the output layer, if there is one, *Shape:*
            ``(N, T, V)``; and the lengths of both.
        """
        seqs, layout = self.encoder_frontend(seqs, layout)
        seqs = self.encoder(seqs, layout)

        return seqs, None if self.final_proj is None else self.final_proj(seqs), layout

    @cached_property
    def normalizes(self) -> bool:
        """Whether the model takes waveforms of zero mean and unit variance."""
        return expects_normalized_audio(self.config)

    @torch.inference_mode()
    def run(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> Outputs:
        """Compute recordings; see :class:`Runner`."""
        batch = pad_waveforms(waveforms, normalize=self.normalizes)

        features, logits, layout = self(*batch.as_input())

        def cut(x: Tensor) -> list[Tensor]:
            return [row[:length].clone() for row, length in zip(x, layout.seq_lens, strict=True)]

        return Outputs(cut(features), None if logits is None else cut(logits))
