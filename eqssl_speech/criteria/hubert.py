"""The masked prediction of HuBERT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import Module

from eqssl_speech.criteria.base import CriterionOutput, LossSection
from eqssl_speech.data.labelled import LabelledBatch, SpeechBatch
from eqssl_speech.models.hubert import HubertLoss, HubertModel, HubertOutput


@final
class HubertCriterion:
    """Predicts the label of each masked frame (arXiv 2106.07447)."""

    def __init__(self, module: HubertModel, section: LossSection) -> None:
        """
        :param module: The base module, for its numbers of codes.
        :param section: The weights of the terms.
        """
        self._section = section
        self._num_labels = tuple(module.num_codes)

    def __call__(self, model: Module, batch: SpeechBatch) -> CriterionOutput:
        """Compute the loss of a batch.

        :param model: The base module or a distributed wrapper of it.
        :param batch: Waveforms, *Shape:* ``(N, S)``, and the labels of their frames, *Shape:* ``(L, N, T)``.
        """
        assert isinstance(batch, LabelledBatch)

        seqs, layout = batch.audio.as_input()

        loss: HubertLoss
        output: HubertOutput

        loss, output = model(
            seqs,
            layout,
            batch.labels,
            unmasked_weight=self._section.unmasked_weight,
            features_penalty_weight=self._section.feature_penalty_weight,
        )

        measures = _measure([x.detach() for x in output.logits], output.targets)

        return CriterionOutput(
            loss=loss.aggregate / output.num_targets,
            num_targets=output.num_targets,
            main_loss=loss.masked.detach() / output.num_targets,
            **measures,
        )

    @property
    def chance(self) -> float:
        """The logarithm of the number of labels, summed over label sets, in nats."""
        return sum(math.log(n) for n in self._num_labels)

    @property
    def num_codes(self) -> int:
        """The number of labels of all label sets together."""
        return sum(self._num_labels)

    @property
    def num_labels(self) -> tuple[int, ...]:
        """How many different labels each label set has."""
        return self._num_labels

    def set_step_nr(self, step_nr: int) -> None:
        """Do nothing: no term follows a schedule."""


@torch.no_grad()
def _measure(all_logits: Sequence[Tensor], all_targets: Sequence[Tensor]) -> dict[str, Tensor]:
    num_correct, code_perplexity, prob_perplexity = [], [], []
    code_counts, label_counts = [], []

    for logits, targets in zip(all_logits, all_targets, strict=True):
        # (N, S, C) -> (N x S, C)
        logits, targets = logits.flatten(0, 1).float(), targets.flatten()

        highest, predictions = logits.max(dim=-1)

        # A tie of all is no success, or a model that has collapsed would know the first label.
        num_correct.append(((predictions == targets) & (highest > logits.amin(dim=-1))).sum())

        counts = _count(predictions, logits.size(-1))

        code_counts.append(counts)
        label_counts.append(_count(targets, logits.size(-1)))
        code_perplexity.append(_perplexity(counts / counts.sum()))
        prob_perplexity.append(_perplexity(torch.softmax(logits, dim=-1).mean(dim=0)))

    return {
        "num_correct": torch.stack(num_correct).float().mean(),
        "code_perplexity": torch.stack(code_perplexity).sum(),
        "prob_perplexity": torch.stack(prob_perplexity).sum(),
        "code_counts": torch.cat(code_counts),
        "label_counts": torch.cat(label_counts),
    }


def _count(indices: Tensor, num_codes: int) -> Tensor:
    # `bincount` would wait for the device.
    counts = torch.zeros(num_codes, device=indices.device)

    return counts.scatter_add_(0, indices, torch.ones_like(indices, dtype=counts.dtype))


def _perplexity(probs: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(probs).sum()

    return entropy.exp()
