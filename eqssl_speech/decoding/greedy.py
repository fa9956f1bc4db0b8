"""The best path: the most probable token of every frame, collapsed.

It is not the most probable labelling, which is a sum over paths (see ``beam.py``), but close where the posteriors are
peaked, and it costs nothing (Graves et al. 2006, section 3.2, "best path decoding").
"""

from __future__ import annotations

import torch
from torch import Tensor

from eqssl_speech.decoding.hypothesis import Hypothesis


def decode_greedy(log_probs: Tensor, blank: int = 0) -> Hypothesis:
    """Decode one utterance along its best path.

    :param log_probs: The log-probabilities of the tokens. *Shape:* :math:`(T,V)`, on any device.
    :param blank: The index of the blank.
    :returns: The tokens; the score is the log-probability of the path.
    :raises ValueError: If the shape or ``blank`` is not what it must be.
    """
    if log_probs.dim() != 2:
        raise ValueError(
            f"`log_probs` must have the shape (T, V), but has {tuple(log_probs.shape)} instead."
        )

    return decode_greedy_batch(log_probs.unsqueeze(0), [log_probs.size(0)], blank)[0]


def decode_greedy_batch(
    log_probs: Tensor, lengths: Tensor | list[int] | None = None, blank: int = 0
) -> list[Hypothesis]:
    """Decode a padded batch along the best paths.

    :param log_probs: The log-probabilities of the tokens. *Shape:* :math:`(N,T,V)`, on any device.
    :param lengths: The number of frames of each utterance. *Shape:* :math:`(N)`; ``None`` if all have T. What lies
        beyond is not looked at and may be anything, not-a-number included.
    :param blank: The index of the blank.
    :returns: A hypothesis per utterance, whose score is the log-probability of the path.
    :raises ValueError: If a shape, a length or ``blank`` is not what it must be.
    """
    num_frames = _check(log_probs, lengths, blank)

    # Only what is returned leaves the device: (N, T, V) -> (N, T)
    best, labels = log_probs.detach().max(dim=-1)

    inside = (
        torch.arange(log_probs.size(1), device=best.device) < num_frames.to(best.device)[:, None]
    )
    labels = labels.masked_fill(~inside, blank)

    # A run begins where the label changes.
    is_start = torch.ones_like(inside)
    is_start[:, 1:] = labels[:, 1:] != labels[:, :-1]

    return _gather(labels, best.double().masked_fill(~inside, 0.0), is_start, blank)


def _gather(labels: Tensor, best: Tensor, is_start: Tensor, blank: int) -> list[Hypothesis]:
    # All (N, T). A run never goes on into the next utterance, since every utterance starts one.
    runs = is_start.flatten().cumsum(0) - 1
    num_runs = int(runs[-1]) + 1 if runs.numel() else 0

    lengths = torch.bincount(runs, minlength=num_runs)
    sums = best.new_zeros(num_runs).index_add_(0, runs, best.exp().flatten())
    confidences = (sums / lengths).clamp(0.0, 1.0).tolist()

    row, start = (column.tolist() for column in is_start.nonzero(as_tuple=True))
    tokens = labels[is_start].tolist()
    ends = [s + n for s, n in zip(start, lengths.tolist(), strict=True)]

    found: list[list[tuple[int, tuple[int, int], float]]] = [[] for _ in range(labels.size(0))]

    for n, token, s, e, confidence in zip(row, tokens, start, ends, confidences, strict=True):
        if token != blank:
            found[n].append((token, (s, e), confidence))

    return [
        Hypothesis(
            tokens=tuple(token for token, _, _ in runs_of_one),
            frames=tuple(span for _, span, _ in runs_of_one),
            score=score,
            confidences=tuple(confidence for _, _, confidence in runs_of_one),
        )
        for runs_of_one, score in zip(found, best.sum(dim=1).tolist(), strict=True)
    ]


def _check(log_probs: Tensor, lengths: Tensor | list[int] | None, blank: int) -> Tensor:
    # Returns (N), the number of frames of each utterance.
    if log_probs.dim() != 3:
        raise ValueError(
            f"`log_probs` must have the shape (N, T, V), but has {tuple(log_probs.shape)} instead."
        )

    batch_size, max_num_frames, vocab_size = log_probs.shape
    if not 0 <= blank < vocab_size:
        raise ValueError(f"`blank` must be in [0, {vocab_size}), but is {blank} instead.")

    if lengths is None:
        return torch.full((batch_size,), max_num_frames)

    num_frames = torch.as_tensor(lengths, dtype=torch.int64)
    if num_frames.shape != (batch_size,):
        raise ValueError(
            f"`lengths` must have the shape ({batch_size},), but has {tuple(num_frames.shape)} instead."
        )
    if batch_size and not 0 <= int(num_frames.min()) <= int(num_frames.max()) <= max_num_frames:
        raise ValueError(
            f"`lengths` must be in [0, {max_num_frames}], but is {num_frames.tolist()} instead."
        )

    return num_frames
