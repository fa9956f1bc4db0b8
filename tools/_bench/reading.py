"""The training reader of ``eqssl pretrain``, with nothing behind it and a clock in its loader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from fairseq2.datasets import SequenceBatch

from eqssl_speech.data.batching import BatchPlan
from eqssl_speech.data.loading import BatchLoader, LoadFailure, UtteranceReader, Utterances
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.sources import (
    CheckedSources,
    create_planner,
    create_train_reader,
)


class Feed:
    """Hands out the updates of a pre-training run, as the host's trainer would get them."""

    def __init__(self, config: PretrainConfig, sources: CheckedSources, *, normalize: bool) -> None:
        """
        :param config: Of the run.
        :param sources: Its sources.
        :param normalize: Whether each crop is brought to zero mean and unit variance.
        """
        section = config.equilibrium

        planner, _, streams = create_planner(
            config,
            sources.train,
            num_inner_steps=0 if section is None else section.num_inner_steps,
        )

        self.decoding = PartClock()
        self.loading = PartClock()

        reader = _TimedReader(
            UtteranceReader(config.dataset.audio_format, on_failure=_refuse), self.decoding
        )
        loader = _TimedLoader(
            BatchLoader(cast(UtteranceReader, reader), normalize=normalize), self.loading
        )

        self._reader = create_train_reader(config, planner, streams, cast(BatchLoader, loader))
        self._sample_rate = config.dataset.sample_rate

    def restart(self) -> None:
        """Go back to the first update and take it, so that the reader is at full work from then on."""
        self._reader.reset()

        self.take()

        self.decoding.cpu_s = self.loading.cpu_s = 0.0

    def take(self) -> float:
        """Take an update.

        :returns: Its seconds of audio.
        """
        return sum(episode.num_samples for episode in next(self._reader)) / self._sample_rate

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.close()


class PartClock:
    """Adds up the processor time of a part of the work over all threads."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add what this thread takes in the body."""
        start = time.thread_time()

        yield

        cpu_s = time.thread_time() - start

        with self._lock:
            self.cpu_s += cpu_s


class _TimedReader:
    """What a loader needs of an ``UtteranceReader``, measured."""

    def __init__(self, reader: UtteranceReader, clock: PartClock) -> None:
        self._reader = reader
        self._clock = clock

    def read(
        self, utterances: Utterances, index: int, **kwargs: Any
    ) -> npt.NDArray[np.float32] | None:
        with self._clock.measure():
            return self._reader.read(utterances, index, **kwargs)


class _TimedLoader:
    """What an episode needs of a ``BatchLoader``, measured."""

    def __init__(self, loader: BatchLoader, clock: PartClock) -> None:
        self._loader = loader
        self._clock = clock

    def load(self, utterances: Utterances, plan: BatchPlan) -> SequenceBatch:
        with self._clock.measure():
            return self._loader.load(utterances, plan)


def _refuse(failure: LoadFailure) -> None:
    raise RuntimeError(f"{failure.source_name}: {failure.message}")
