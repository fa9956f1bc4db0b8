"""The Gumbel quantizer of wav2vec 2.0, counted in outer steps and free of a compiler."""

from __future__ import annotations

from typing import final

import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Model
from fairseq2.models.wav2vec2.vector_quantizer import (
    GumbelWav2Vec2VectorQuantizer,
    Wav2Vec2VectorQuantizer,
    Wav2Vec2VectorQuantizerOutput,
)
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import gumbel_softmax
from typing_extensions import override


def prepare_model(model: Module) -> Module:
    """Replace the quantizer of a wav2vec 2.0 model; parameters, buffers and their names stay.

    :param model: A model of the family ``wav2vec2``; another one is returned as it is.
    """
    if isinstance(model, Wav2Vec2Model) and isinstance(
        model.quantizer, GumbelWav2Vec2VectorQuantizer
    ):
        model.quantizer = StepwiseQuantizer(model.quantizer)

    return model


@final
class StepwiseQuantizer(Wav2Vec2VectorQuantizer):
    """Quantizes features by Gumbel softmax with a straight-through gradient (arXiv 2006.11477, section 2).

    It differs from fairseq2's in two ways. The temperature follows the number of the outer step that it is told
    (:meth:`set_step_nr`), not the number of forward passes, of which an outer step has many. And the chosen entries
    come from a matrix product instead of a function compiled anew in each forward pass.
    """

    def __init__(self, base: GumbelWav2Vec2VectorQuantizer) -> None:
        """:param base: The quantizer whose parameters and buffers are taken over."""
        super().__init__(
            base.input_dim,
            base.output_dim,
            base.num_codebooks,
            base.num_codebook_entries,
            base.codebook_sampling_temperature,
        )

        self.entry_proj = base.entry_proj
        self.entries = base.entries

        self.num_updates: Tensor

        self.register_buffer("num_updates", base.num_updates)

        self._step_nr: int | None = None

    def set_step_nr(self, step_nr: int) -> None:
        """Tell the number of the outer step, from 1; ``num_updates`` holds it from then on."""
        self._step_nr = step_nr

        self.num_updates.fill_(step_nr)

    @override
    def forward(self, x: Tensor) -> Wav2Vec2VectorQuantizerOutput:
        """
        :param x: The features. *Shape:* ``(N, S, M)``.
        :returns: The quantized features, *Shape:* ``(N, S, D)``, the chosen codes as (nearly) one-hot rows, *Shape:*
            ``(N x S, G x V)``, and the perplexities, summed over the G codebooks.
        """
        temperature = self._temperature()
        batch_size, seq_len, _ = x.shape
        num_codebooks, num_entries = self.num_codebooks, self.num_codebook_entries

        # (N, S, M) -> (N x S, G, V)
        logits = self.entry_proj(x).view(-1, num_codebooks, num_entries)

        # `one_hot` would wait for the device, to look at the values.
        hard = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)

        code_perplexity = _perplexity(hard.float().mean(dim=0))
        prob_perplexity = _perplexity(torch.softmax(logits.float(), dim=-1).mean(dim=0))

        if self.training:
            codes = gumbel_softmax(logits.float(), tau=temperature, hard=True).type_as(logits)
        else:
            codes = hard

        # (N x S, G, V) x (G, V, D / G) -> (N x S, G, D / G)
        quantized = torch.einsum(
            "ngv,gvd->ngd", codes, self.entries.view(num_codebooks, num_entries, -1)
        )

        return Wav2Vec2VectorQuantizerOutput(
            quantized.reshape(batch_size, seq_len, -1),
            codes.flatten(1),
            code_perplexity,
            prob_perplexity,
            temperature,
        )

    def _temperature(self) -> float:
        # The buffer is read (a wait for the device) only where nobody has told the step.
        step_nr = int(self.num_updates) if self._step_nr is None else self._step_nr

        start, end, decay = self.codebook_sampling_temperature

        return max(start * float(decay) ** max(step_nr - 1, 0), end)


def _perplexity(probs: Tensor) -> Tensor:
    # (G, V) -> ()
    return torch.exp(-torch.sum(probs * torch.log(probs + 1e-7), dim=-1)).sum()
