"""The contrastive logits of wav2vec 2.0 from one product per utterance, without the distractors' vectors."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

_COSINE_EPS: Final = 1e-8
"""That of ``torch.cosine_similarity``."""

_INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int32}
"""What the elements of a row are read as, by their size in bytes."""


def sample_distractors(
    batch_size: int, num_targets: int, num_distractors: int, device: torch.device
) -> Tensor:
    """Draw distractors for each target from the other targets of its utterance, with replacement.

    The same random numbers are drawn as by fairseq2, in the same order.

    :param batch_size: The number of utterances.
    :param num_targets: The number of targets of an utterance, at least 2.
    :param num_distractors: The number of distractors of a target.
    :returns: The positions of the distractors among the utterance's targets, in [0, ``num_targets``). *Shape:*
        ``(N, S, L)``.
    """
    size = (batch_size, num_targets * num_distractors)

    indices = torch.randint(0, num_targets - 1, size, device=device)
    indices = indices.view(batch_size, num_targets, num_distractors)

    own = torch.arange(num_targets, device=device).view(1, -1, 1)

    return indices.add_(indices >= own)


def contrast(seqs: Tensor, targets: Tensor, distractors: Tensor, temperature: float) -> Tensor:
    """Compare predictions with their targets and with distractors.

    All cosines between the predictions and the targets of an utterance are one matrix product; the distractors' are
    then picked out of it. In float32 at least, whatever the precision of the arguments; on a GPU the product is of the
    precision that ``torch.backends.cuda.matmul`` allows in float32.

    :param seqs: The predictions. *Shape:* ``(N, S, M)``.
    :param targets: The targets. *Shape:* ``(N, S, M)``.
    :param distractors: What :func:`sample_distractors` returns. *Shape:* ``(N, S, L)``.
    :param temperature: The cosines are divided by it.
    :returns: The logits; the target's stands first, and a distractor that equals the target has minus infinity.
        *Shape:* ``(N, S, 1 + L)``.
    """
    # The target itself, and its distractors. (N, S, 1 + L)
    own = torch.arange(targets.size(1), device=targets.device).view(1, -1, 1)
    candidates = torch.cat([own.expand(targets.size(0), -1, -1), distractors], dim=2)

    with torch.autocast(seqs.device.type, enabled=False):
        predictions = normalize(_at_least_float32(seqs), dim=-1, eps=_COSINE_EPS)
        directions = normalize(_at_least_float32(targets), dim=-1, eps=_COSINE_EPS)

        # (N, S, M) x (N, M, S) -> (N, S, S)
        cosines = torch.bmm(predictions, directions.transpose(1, 2))

    logits = cosines.gather(2, candidates)

    if temperature != 1.0:
        logits = logits / temperature

    return logits.masked_fill(_find_copies(targets, candidates), -torch.inf)


def _find_copies(targets: Tensor, candidates: Tensor) -> Tensor:
    """Say which candidates but the first are equal to the first in all elements. *Shape:* ``(N, S, 1 + L)``."""
    keys = _row_keys(targets.detach())

    # (N, S) -> (N, S, S) -> (N, S, 1 + L)
    is_copy = (keys.unsqueeze(2) == keys.unsqueeze(1)).gather(2, candidates)
    is_copy[:, :, 0] = False

    return is_copy


def _row_keys(rows: Tensor) -> Tensor:
    """Return 64 bits per row that are the same for equal rows and, but for one pair in billions, others for others."""
    # Minus zero equals zero.
    bits = (rows + 0.0).contiguous().view(_INTEGERS[rows.element_size()]).long()

    places = torch.arange(bits.size(-1), device=rows.device)

    # Products and sums wrap around.
    return (bits * (_scramble(places) | 1)).sum(-1)


def _scramble(x: Tensor) -> Tensor:
    """Mix the bits of integers (the finalizer of SplitMix64, G. Steele et al. 2014)."""
    x = (x + 1) * -7046029254386353131
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685

    return x ^ (x >> 31 & 0x1FFFFFFFF)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
