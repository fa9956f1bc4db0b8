"""The contrastive criterion of wav2vec 2.0."""

from __future__ import annotations

import math
from typing import final

from fairseq2.datasets import SequenceBatch
from fairseq2.models.wav2vec2 import Wav2Vec2Loss, Wav2Vec2Model, Wav2Vec2Output
from torch import Tensor
from torch.nn import Module

from eqssl_speech.criteria.base import CriterionOutput, LossSection
from eqssl_speech.data.labelled import SpeechBatch
from eqssl_speech.models.wav2vec2 import StepwiseQuantizer


@final
class Wav2Vec2Criterion:
    """Tells the quantized feature of a masked frame from distractors (arXiv 2006.11477, section 3.2)."""

    def __init__(self, module: Wav2Vec2Model, section: LossSection) -> None:
        """
        :param module: The base module, for its numbers of codes and distractors.
        :param section: The weights of the terms.
        """
        self._section = section
        self._chance = math.log(1 + module.num_distractors)
        self._quantizer = module.quantizer

    def __call__(self, model: Module, batch: SpeechBatch) -> CriterionOutput:
        """Compute the loss of a batch.

        :param model: The base module or a distributed wrapper of it.
        :param batch: Waveforms. *Shape:* ``(N, S)``.
        """
        assert isinstance(batch, SequenceBatch)

        seqs, layout = batch.as_input()

        loss: Wav2Vec2Loss
        output: Wav2Vec2Output

        loss, output = model(
            seqs,
            layout,
            diversity_weight=self._section.diversity_weight,
            features_penalty_weight=self._section.feature_penalty_weight,
        )

        batch_size, num_masked, _ = output.logits.shape
        num_targets = batch_size * num_masked

        return CriterionOutput(
            loss=loss.aggregate / num_targets,
            num_targets=num_targets,
            main_loss=loss.contrastive.detach() / num_targets,
            num_correct=_count_correct(output.logits.detach()),
            code_perplexity=output.quantizer_output.code_perplexity.detach(),
            prob_perplexity=output.quantizer_output.prob_perplexity.detach(),
            code_counts=output.quantizer_output.cb.detach().float().sum(dim=0),
        )

    @property
    def chance(self) -> float:
        """``ln(1 + distractors)``, in nats."""
        return self._chance

    @property
    def num_codes(self) -> int:
        """``G x V``, over all codebooks."""
        return self._quantizer.num_codebooks * self._quantizer.num_codebook_entries

    @property
    def num_labels(self) -> tuple[int, ...]:
        """None: targets are features of the audio itself."""
        return ()

    def set_step_nr(self, step_nr: int) -> None:
        """Let the quantizer's temperature follow the outer steps."""
        if isinstance(self._quantizer, StepwiseQuantizer):
            self._quantizer.set_step_nr(step_nr)


def _count_correct(logits: Tensor) -> Tensor:
    # The target stands first; a tie is no success, or a collapsed model would look perfect.
    return (logits[..., :1] > logits[..., 1:]).all(dim=-1).sum()
