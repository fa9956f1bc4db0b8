"""Overlapping windows over a long recording, and their emissions joined where both windows hear a pause.

A recording longer than a model was trained on is emitted in windows that overlap by a third, as the ASR pipeline of
Hugging Face transformers has it (a sixth of a window is context on each side; documented there as ``stride_length_s``).
The emissions of the inner parts are joined, so no word is cut by a window's end: at a seam, either window has heard the
word whole. The seam itself is put, within the middle of the overlap, where both windows are surest of the blank for
longest, because there it does not matter whose frames are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

_OVERLAP_SHARE: Final = 3
"""Windows overlap by their length divided by this."""

_PAUSE_NUM_FRAMES: Final = 17
"""Over how many frames the surety of the blank is averaged; odd. At 20 ms a frame: a third of a second."""

_MIN_LOG_PROB: Final = -20.0
"""Surer than this that a frame is not blank makes no difference."""


@final
@dataclass(frozen=True)
class FrameGrid:
    """How the frames of an emission lie in the samples: frame ``i`` sees those from ``i * hop`` on."""

    hop: int
    """Samples from one frame to the next."""

    receptive_field: int
    """Samples that a frame sees; shorter audio gives no frame."""

    def count(self, num_samples: int) -> int:
        """Return how many frames a number of samples gives."""
        return max(0, (num_samples - self.receptive_field) // self.hop + 1)

    def extent(self, num_frames: int) -> int:
        """Return the least number of samples that gives a number of frames, at least one."""
        return (num_frames - 1) * self.hop + self.receptive_field


@final
@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of frames of a recording."""

    start: int
    """The first frame."""

    stop: int
    """The frame after the last."""

    @property
    def num_frames(self) -> int:
        """The length in frames."""
        return self.stop - self.start


def plan_windows(num_frames: int, max_num_frames: int) -> list[Window]:
    """Cover a recording with windows of one length, evenly spread, that overlap by a third or more.

    :param num_frames: The frames of the recording, at least one.
    :param max_num_frames: The frames of a window; a recording that has no more is one window.
    :returns: The windows in their order; the first starts at 0 and the last ends with the recording.
    """
    if num_frames <= max_num_frames:
        return [Window(0, num_frames)]

    stride = max(1, max_num_frames - max_num_frames // _OVERLAP_SHARE)
    last_start = num_frames - max_num_frames

    num_strides = -(-last_start // stride)
    starts = [round(i * last_start / num_strides) for i in range(num_strides + 1)]

    return [Window(start, start + max_num_frames) for start in starts]


@final
class EmissionJoiner:
    """Joins the emissions of a recording's windows as they come; holds no more than one of them."""

    def __init__(self, blank_index: int = 0) -> None:
        """
        :param blank_index: The index of the blank in the vocabulary.
        """
        self._blank_index = blank_index
        self._window: Window | None = None
        self._emission = torch.empty(0, 0)
        self._start = 0

    @property
    def start(self) -> int:
        """The last seam: the first frame that was not returned yet, counted from the start of the recording."""
        return self._start

    def push(self, window: Window, emission: Tensor) -> Tensor | None:
        """Take the emission of the next window.

        :param window: The window; it begins after the one before and overlaps it.
        :param emission: Its log-probabilities. *Shape:* ``(T, V)``, ``T`` the window's frames.
        :returns: The frames from the last seam to the new one, which is now settled; ``None`` for the first window.
        """
        joined = None

        if self._window is not None:
            seam = self._find_seam(self._window, window, emission)
            joined = self._take(self._window, seam)
            self._start = seam

        self._window, self._emission = window, emission

        return joined

    def finish(self) -> Tensor:
        """Return the frames from the last seam to the end of the last window.

        :returns: Log-probabilities. *Shape:* ``(T, V)``.
        """
        assert self._window is not None

        return self._take(self._window, self._window.stop)

    def _take(self, window: Window, stop: int) -> Tensor:
        return self._emission[self._start - window.start : stop - window.start]

    def _find_seam(self, before: Window, after: Window, emission: Tensor) -> int:
        middle = (after.start + before.stop) // 2
        slack = after.num_frames // _OVERLAP_SHARE // 4

        candidates = range(max(after.start, middle - slack), min(before.stop, middle + slack) + 1)

        left = self._emission[after.start - before.start :, self._blank_index]
        right = emission[: before.stop - after.start, self._blank_index]

        surety = _smooth(left.double().clamp(_MIN_LOG_PROB) + right.double().clamp(_MIN_LOG_PROB))

        def rate(frame: int) -> tuple[float, int]:
            # Rounded, so that a tie of silence with silence falls to the middle.
            return round(surety[min(frame - after.start, len(surety) - 1)], 6), -abs(frame - middle)

        return max(candidates, key=rate)


def _smooth(values: Tensor) -> Sequence[float]:
    # (T) -> (1, 1, T) -> (T)
    averages = avg_pool1d(
        values[None, None],
        _PAUSE_NUM_FRAMES,
        stride=1,
        padding=_PAUSE_NUM_FRAMES // 2,
        count_include_pad=False,
    )

    smooth: list[float] = averages[0, 0].tolist()

    return smooth
