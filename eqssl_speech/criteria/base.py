"""The interface between what is minimised and how it is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import Module

from eqssl_speech.data.labelled import SpeechBatch


@dataclass(kw_only=True)
class LossSection:
    """The weights of the terms of the loss."""

    diversity_weight: float = 0.1
    """wav2vec 2.0: the weight of the codebooks' diversity term (arXiv 2006.11477, section 3.2)."""

    feature_penalty_weight: float = 10.0
    """The weight of the mean square of the feature extractor's output."""

    unmasked_weight: float = 0.0
    """HuBERT: the weight of the frames that are not masked, beside 1 of those that are (arXiv 2106.07447:
    (1 - alpha) / alpha). 0 does not compute them."""


@dataclass(frozen=True)
class CriterionOutput:
    """The loss of one batch and what is measured beside it."""

    loss: Tensor
    """The mean loss per target, in nats, with its graph. A scalar."""

    num_targets: int
    """The number of masked frames that the loss is a mean of. The loss of a frame is summed over label sets."""

    main_loss: Tensor
    """The mean self-supervised loss without regularizers, in nats, detached. A scalar."""

    num_correct: Tensor
    """How many targets were told from all distractors, or predicted (the mean over label sets), detached. A scalar."""

    code_perplexity: Tensor
    """The perplexity of the chosen codes, summed over codebooks or label sets, detached. A scalar."""

    prob_perplexity: Tensor
    """The perplexity of the codes' mean probability, summed over codebooks or label sets, detached. A scalar."""

    code_counts: Tensor
    """How often the quantizer chose each code, or the model predicted it, detached. *Shape:* ``(G x V)``."""

    label_counts: Tensor | None = None
    """How often each label was a target, one label set after another, detached; ``None`` where targets have no labels.
    *Shape:* ``(G x V)``."""


class Criterion(Protocol):
    """Computes a self-supervised loss."""

    def __call__(self, model: Module, batch: SpeechBatch) -> CriterionOutput:
        """Run ``model``, the base module or a distributed wrapper of it, on a batch."""

    @property
    def chance(self) -> float:
        """The loss of a model that has learned nothing, in nats."""

    @property
    def num_codes(self) -> int:
        """The number of codes over all codebooks or label sets."""

    @property
    def num_labels(self) -> tuple[int, ...]:
        """How many different labels each label set has; none where targets have no labels."""

    def set_step_nr(self, step_nr: int) -> None:
        """Tell the number of the outer step, from 1, for whatever follows a schedule."""
