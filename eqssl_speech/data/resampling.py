"""Resampling of a part of a recording, so that it equals the same part of the whole resampled."""

from __future__ import annotations

from math import ceil, gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

# The width of torchaudio's windowed sinc in zero crossings, and its default roll-off.
_SINC_WIDTH: Final = 6
_SINC_ROLL_OFF: Final = 0.99

# In Hz. Beyond these a header is damaged, and its recording would become absurdly long or short.
_MIN_SAMPLE_RATE: Final = 1_000
_MAX_SAMPLE_RATE: Final = 1_000_000

# torchaudio has a filter for each place between two samples: from 16,001 to 16,000 Hz they would take gigabytes.
_MAX_NUM_TAPS: Final = 1 << 22


def can_resample(sample_rate: int, wanted_rate: int) -> bool:
    """Tell whether a sample rate is one of recordings and can be brought to another in little memory.

    :param sample_rate: The rate as stored, in Hz.
    :param wanted_rate: The rate that is wanted, in Hz.
    """
    if not _MIN_SAMPLE_RATE <= sample_rate <= _MAX_SAMPLE_RATE:
        return False

    old, new = _reduce(sample_rate, wanted_rate)

    return new * (old + 2 * _filter_width(old, new)) <= _MAX_NUM_TAPS


def find_stored_part(start: int, stop: int, sample_rate: int, wanted_rate: int) -> tuple[int, int]:
    """Return the stored samples on which a part of the resampled recording depends.

    :param start: The first sample of the part, at the wanted rate.
    :param stop: The one after its last.
    :param sample_rate: The rate as stored, in Hz.
    :param wanted_rate: The rate that is wanted, in Hz.
    :returns: The first and the one after the last, which may be after the end of the recording.
    """
    # Blocks of `old` stored samples become blocks of `new`; the filter sees the same at the start of each.
    old, new = _reduce(sample_rate, wanted_rate)

    margin = ceil(_filter_width(old, new) / old) + 1

    return max(0, start // new - margin) * old, (ceil(stop / new) + margin) * old


def resample_part(
    stored: NDArray[np.float32],
    first: int,
    start: int,
    stop: int,
    sample_rate: int,
    wanted_rate: int,
) -> NDArray[np.float32]:
    """Resample what :func:`find_stored_part` asked for.

    :param stored: The stored samples. *Shape:* :math:`(S)`.
    :param first: The place of the first of them in the recording.
    :param start: The first sample of the part, at the wanted rate.
    :param stop: The one after its last.
    :param sample_rate: The rate as stored, in Hz.
    :param wanted_rate: The rate that is wanted, in Hz.
    :returns: The part. *Shape:* ``(stop - start,)``.
    """
    import torch  # Only here, as plain reading needs neither.
    from torchaudio.functional import resample

    old, new = _reduce(sample_rate, wanted_rate)

    samples = resample(torch.from_numpy(stored), old, new).numpy()

    # `first` is a multiple of `old`.
    skipped = first // old * new

    part: NDArray[np.float32] = samples[start - skipped : stop - skipped]

    return part


def _reduce(sample_rate: int, wanted_rate: int) -> tuple[int, int]:
    divisor = gcd(sample_rate, wanted_rate)

    return sample_rate // divisor, wanted_rate // divisor


def _filter_width(old: int, new: int) -> int:
    return ceil(_SINC_WIDTH * old / (min(old, new) * _SINC_ROLL_OFF))
