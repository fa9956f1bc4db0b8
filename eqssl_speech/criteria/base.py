"""The interface between what is minimised and how it is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fairseq2.datasets import SequenceBatch
from torch import Tensor
from torch.nn import Module


@dataclass(frozen=True)
class CriterionOutput:
    """The loss of one batch and what is measured beside it."""

    loss: Tensor
    """The mean loss per target, in nats, with its graph. A scalar."""

    num_targets: int
    """The number of masked frames that the loss is a mean of."""

    main_loss: Tensor
    """The mean self-supervised loss without regularizers, in nats, detached. A scalar."""

    num_correct: Tensor
    """How many targets were told from all distractors, detached. A scalar."""

    code_perplexity: Tensor
    """The perplexity of the chosen codes, summed over codebooks, detached. A scalar."""

    prob_perplexity: Tensor
    """The perplexity of the codes' mean probability, summed over codebooks, detached. A scalar."""

    code_counts: Tensor
    """How often each code was chosen, detached. *Shape:* ``(G x V)``."""


class Criterion(Protocol):
    """Computes a self-supervised loss."""

    def __call__(self, model: Module, batch: SequenceBatch) -> CriterionOutput:
        """Run ``model``, the base module or a distributed wrapper of it, on a batch."""

    @property
    def chance(self) -> float:
        """The loss of a model that has learned nothing, in nats."""

    @property
    def num_codes(self) -> int:
        """The number of codes over all codebooks."""

    def set_step_nr(self, step_nr: int) -> None:
        """Tell the number of the outer step, from 1, for whatever follows a schedule."""
