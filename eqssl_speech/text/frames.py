"""How many frames an utterance has, and how many its labels need: what CTC cannot align is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Final

CONVOLUTIONS: Final = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each convolution of the wav2vec 2.0 feature extractor (arXiv 2006.11477, section 4.2), which
HuBERT has as well."""

FRAME_STRIDE: Final = prod(stride for _, stride in CONVOLUTIONS)
"""Samples from one frame of the model to the next: 320, which are 20 ms at 16 kHz."""


def num_frames(num_samples: int, convolutions: Sequence[tuple[int, int]] = CONVOLUTIONS) -> int:
    """Return how many frames the model makes of an utterance.

    :param num_samples: Its length at the model's sample rate.
    :param convolutions: Kernel and stride of each convolution, which has no padding.
    :returns: The number of frames; 0 for what is shorter than the receptive field of 400 samples.
    """
    for kernel, stride in convolutions:
        num_samples = max(0, (num_samples - kernel) // stride + 1)

    return num_samples


def min_frames(labels: Sequence[int]) -> int:
    """Return how many frames the labels of an utterance need at the least.

    CTC (Graves et al. 2006) gives each label a frame, and puts a blank between equal neighbours.

    :param labels: The labels, without blanks.
    :returns: The number of labels and of equal neighbours.
    """
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def find_impossible(
    num_samples: Sequence[int],
    labels: Sequence[Sequence[int]],
    convolutions: Sequence[tuple[int, int]] = CONVOLUTIONS,
) -> list[int]:
    """Find the utterances that CTC cannot align, whose loss would be infinite.

    :param num_samples: The length of each utterance at the model's sample rate.
    :param labels: The labels of each.
    :param convolutions: See :func:`num_frames`.
    :returns: The indices of those whose labels need more frames than there are, ascending.
    """
    return [
        index
        for index, (length, row) in enumerate(zip(num_samples, labels, strict=True))
        if num_frames(length, convolutions) < min_frames(row)
    ]
