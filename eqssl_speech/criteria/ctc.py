"""Connectionist temporal classification: the loss of a padded batch of transcribed speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

import torch
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import ctc_loss, log_softmax

BLANK: Final = 0
"""The index of the blank, as everywhere in this package."""


class TranscribedInput(Protocol):
    """What the criterion reads of a batch."""

    def as_input(self) -> tuple[Tensor, BatchLayout]:
        """Return the padded waveforms, *Shape:* ``(N, S)``, and their lengths."""

    @property
    def targets(self) -> Tensor:
        """The labels, none of them the blank; what is behind an utterance's last is ignored. *Shape:* ``(N, L)``."""

    @property
    def target_lens(self) -> Sequence[int]:
        """The number of labels of each utterance, which may be 0."""


@final
@dataclass(frozen=True)
class CtcOutput:
    """The loss of one batch and what is measured beside it; all but the two losses with a graph is detached."""

    loss: Tensor
    """``loss_sum`` per counted label, in nats, with its graph. A scalar."""

    loss_sum: Tensor
    """The sum of the losses of all utterances that are possible, in nats, with its graph. A scalar."""

    num_counted_labels: int
    """The number of labels of all utterances that are possible; ``loss`` divides by it, or by 1 where it is 0."""

    losses: Tensor
    """The loss of each utterance in nats; ``inf`` where it is impossible. *Shape:* ``(N,)``."""

    num_labels: Tensor
    """The number of labels of each utterance. *Shape:* ``(N,)``."""

    impossible: Tensor
    """Whether an utterance has more labels plus repeats than frames, so that no path spells it. It adds neither loss
    nor gradient; whoever trains must name it. *Shape:* ``(N,)``."""

    log_probs: Tensor
    """The log-probabilities of the labels, at least float32; frames behind an utterance's last are meaningless.
    *Shape:* ``(N, T, V)``."""

    num_frames: Tensor
    """The number of frames of each utterance. *Shape:* ``(N,)``."""

    blank_share: Tensor
    """The share of the batch's frames whose most probable label is the blank. A scalar. *Range:* [0, 1]."""


@final
class CtcCriterion:
    """Minimises the negative log-probability of the transcript over all its alignments (Graves et al., ICML 2006)."""

    def __call__(self, model: Module, batch: TranscribedInput) -> CtcOutput:
        """Compute the loss of a batch.

        :param model: A :class:`~fairseq2.models.wav2vec2.asr.Wav2Vec2AsrModel` or a distributed wrapper of it.
        :param batch: Waveforms and their labels.
        """
        logits, layout = model(*batch.as_input())

        # (N, S, V), in the precision of the sums over paths
        dtype = torch.promote_types(logits.dtype, torch.float32)
        log_probs = log_softmax(logits, dim=-1, dtype=dtype)

        device = log_probs.device
        num_frames = torch.tensor(layout.seq_lens, device=device)
        num_labels = torch.tensor(batch.target_lens, device=device)

        losses, impossible = ctc_losses(log_probs, num_frames, batch.targets, num_labels)

        loss_sum = losses.sum()
        num_counted_labels = int(num_labels.masked_fill(impossible, 0).sum())

        return CtcOutput(
            loss=loss_sum / max(num_counted_labels, 1),
            loss_sum=loss_sum,
            num_counted_labels=num_counted_labels,
            losses=losses.detach().masked_fill(impossible, torch.inf),
            num_labels=num_labels,
            impossible=impossible,
            log_probs=log_probs.detach(),
            num_frames=num_frames,
            blank_share=_blank_share(log_probs.detach(), num_frames),
        )


def ctc_losses(
    log_probs: Tensor, num_frames: Tensor, targets: Tensor, num_labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the loss of each utterance, zero with a zero gradient where no path spells the labels.

    :param log_probs: The log-probabilities. *Shape:* ``(N, T, V)``.
    :param num_frames: How many of the T frames count. *Shape:* ``(N,)``.
    :param targets: The labels. *Shape:* ``(N, L)``.
    :param num_labels: How many of the L labels count. *Shape:* ``(N,)``.
    :returns: The losses in nats, and which utterances are impossible, both *Shape:* ``(N,)``. A loss that is not
        finite for another reason stays so.
    """
    impossible = num_labels + count_repeats(targets, num_labels) > num_frames

    # An impossible utterance is computed without labels, which is finite, and then left out. Its own loss is infinite,
    # whose gradient is not a number even where it is multiplied by zero; and `zero_infinity` would hide faults as well.
    losses: Tensor = ctc_loss(
        log_probs.transpose(0, 1),  # (N, T, V) -> (T, N, V)
        targets,
        num_frames,
        num_labels.masked_fill(impossible, 0),
        blank=BLANK,
        reduction="none",
    )

    return losses.masked_fill(impossible, 0.0), impossible


def count_repeats(targets: Tensor, num_labels: Tensor) -> Tensor:
    """Count the labels that equal the one before; each needs a blank, so one frame more.

    :param targets: The labels. *Shape:* ``(N, L)``.
    :param num_labels: How many of the L labels count. *Shape:* ``(N,)``.
    :returns: The number of repeats of each utterance. *Shape:* ``(N,)``.
    """
    positions = torch.arange(1, max(targets.size(1), 1), device=targets.device)

    # (L - 1), (N, 1) -> (N, L - 1)
    counted = positions < num_labels.unsqueeze(1)

    return ((targets[:, 1:] == targets[:, :-1]) & counted).sum(dim=1)


def _blank_share(log_probs: Tensor, num_frames: Tensor) -> Tensor:
    # (T), (N, 1) -> (N, T)
    counted = torch.arange(log_probs.size(1), device=log_probs.device) < num_frames.unsqueeze(1)

    blank = (log_probs.argmax(dim=-1) == BLANK) & counted

    return blank.sum() / counted.sum().clamp(min=1)
