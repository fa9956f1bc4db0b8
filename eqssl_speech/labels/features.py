"""The features that are clustered, in windows, so that a recording may be of any length.

A window is always computed by itself: not in a batch, and with the threads of one operator set to one. So its numbers
hang neither on what else is computed nor on how many processes and threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchaudio.compliance.kaldi import mfcc
from torchaudio.functional import compute_deltas
from typing_extensions import override

from eqssl_speech.labels.settings import (
    FEATURE_WINDOW,
    MFCC,
    MFCC_HOP,
    SAMPLE_RATE,
    FeatureStamp,
    count_frames,
)

ReadPart: TypeAlias = Callable[[int, int], npt.NDArray[np.float32]]
"""Reads samples of an utterance, from the first of them and so many."""

_WINDOW_S: Final = 100
"""Longer recordings are cut into windows of this length at the most."""

_NUM_COEFFICIENTS: Final = 13

_DELTA_CONTEXT: Final = 4
"""Frames on each side on which a frame's differences of differences depend: two times two."""


@final
@dataclass(frozen=True, slots=True)
class FrameWindow:
    """A stretch of the frames of an utterance."""

    start: int
    """The first frame."""

    stop: int
    """The frame after the last."""

    @property
    def num_frames(self) -> int:
        """The length in frames."""
        return self.stop - self.start


class FeatureExtractor(Protocol):
    """Computes features, in any thread."""

    @property
    def stamp(self) -> FeatureStamp:
        """What they are."""

    @property
    def precision(self) -> str:
        """What they are computed in."""

    @property
    def device(self) -> torch.device:
        """Where they are computed."""

    @property
    def max_num_frames(self) -> int:
        """The frames of the longest window."""

    def extract(self, read: ReadPart, num_samples: int, window: FrameWindow) -> Tensor:
        """Compute the features of a window.

        :param read: Reads the utterance.
        :param num_samples: The length of the whole utterance.
        :param window: The window.
        :returns: *Shape:* ``(T, D)``, float32.
        """


def plan_windows(num_frames: int, max_num_frames: int) -> list[FrameWindow]:
    """Cut an utterance into as few windows as possible, of one length but for a frame.

    :param num_frames: The frames of the utterance; none have no window.
    :param max_num_frames: The frames of the longest window.
    """
    num_windows = -(-num_frames // max_num_frames)

    return [cut_window(num_frames, num_windows, index) for index in range(num_windows)]


def cut_window(num_frames: int, num_windows: int, index: int) -> FrameWindow:
    """Return one of the windows of an utterance.

    :param num_frames: The frames of the utterance.
    :param num_windows: How many windows it has.
    :param index: Which of them, from 0.
    """
    return FrameWindow(num_frames * index // num_windows, num_frames * (index + 1) // num_windows)


@contextmanager
def one_thread_per_operator() -> Iterator[None]:
    """Let torch's operators use one thread each, so that sums are added in one order; restored in the end."""
    num_threads = torch.get_num_threads()

    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@final
class MfccExtractor(FeatureExtractor):
    """MFCCs as HuBERT's first iteration is made of: 13 coefficients without energy, by Kaldi's recipe, with their
    differences and the differences of those (arXiv 2106.07447)."""

    @property
    @override
    def stamp(self) -> FeatureStamp:
        return MFCC

    @property
    @override
    def precision(self) -> str:
        return "float32"

    @property
    @override
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    @override
    def max_num_frames(self) -> int:
        return _WINDOW_S * SAMPLE_RATE // MFCC_HOP

    @override
    @torch.inference_mode()
    def extract(self, read: ReadPart, num_samples: int, window: FrameWindow) -> Tensor:
        start = max(0, window.start - _DELTA_CONTEXT)
        stop = min(count_frames(num_samples, MFCC), window.stop + _DELTA_CONTEXT)

        samples = read(start * MFCC_HOP, (stop - start - 1) * MFCC_HOP + FEATURE_WINDOW)

        # (T, C) -> (C, T)
        coefficients = mfcc(
            torch.from_numpy(samples)[None],
            sample_frequency=float(SAMPLE_RATE),
            num_ceps=_NUM_COEFFICIENTS,
            use_energy=False,
        ).T

        deltas = compute_deltas(coefficients)

        # (C, T) -> (T, 3 x C)
        features = torch.cat([coefficients, deltas, compute_deltas(deltas)]).T

        return features[window.start - start : window.stop - start].contiguous()
