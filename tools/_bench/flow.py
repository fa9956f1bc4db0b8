"""Seconds of audio per second: how they are measured, for a reader and for a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from .variants import Variant


@dataclass(frozen=True)
class Flow:
    """What came through in a while."""

    audio_s: float
    """Seconds of audio."""

    time_s: float
    """Wall-clock time."""

    cpu_s: float
    """Processor time over all threads; what a busy machine leaves undisturbed."""

    @property
    def rate(self) -> float:
        """Seconds of audio per second."""
        return self.audio_s / self.time_s

    @property
    def cpu_rate(self) -> float:
        """Seconds of audio per second of processor time."""
        return self.audio_s / self.cpu_s


def measure_flow(take: Callable[[], float], seconds: float, max_audio_s: float = math.inf) -> Flow:
    """Take audio for a while, once at least.

    :param take: Takes some more; returns its seconds.
    :param seconds: For how long; whatever was begun by then is finished.
    :param max_audio_s: Stop once so much has been taken.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    audio_s = 0.0

    while True:
        audio_s += take()
        time_s = time.perf_counter() - start

        if time_s >= seconds or audio_s >= max_audio_s:
            return Flow(audio_s, time_s, time.process_time() - cpu_start)


class Trainer:
    """Takes audio as training does: forward, backward and AdamW on batch after batch, which are there already."""

    def __init__(self, variant: Variant, audio_s: float) -> None:
        """
        :param variant: Takes the steps.
        :param audio_s: Seconds of audio of a step.
        """
        self._variant = variant
        self._audio_s = audio_s

    def take(self) -> float:
        """Take one step.

        :returns: Its seconds of audio.
        """
        self._variant.accumulate()
        self._variant.apply()

        return self._audio_s
