"""From planned batches to waveforms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from fairseq2.datasets import SequenceBatch
from torch.nn.functional import layer_norm

from eqssl_speech.data.audio import AudioError, AudioFormat, read_audio
from eqssl_speech.data.batching import BatchPlan
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.manifest import Manifest
from eqssl_speech.error import InputError


@dataclass(frozen=True)
class Utterances:
    """The usable utterances of one split of one source (or, for the regime ``mixed``, of several)."""

    source_name: str
    """The data source, or ``mixed``."""

    items: tuple[tuple[Manifest, int], ...]
    """Manifest and index in it of each utterance."""

    lengths: npt.NDArray[np.int64]
    """The number of samples of each utterance at the wanted rate. *Shape:* ``(U,)``."""

    @property
    def num_samples(self) -> int:
        """The samples of all utterances."""
        return int(self.lengths.sum())

    @staticmethod
    def join(source_name: str, parts: Sequence[Utterances]) -> Utterances:
        """Put the utterances of several sources into one list."""
        return Utterances(
            source_name,
            tuple(item for part in parts for item in part.items),
            np.concatenate([part.lengths for part in parts]),
        )


@dataclass(frozen=True)
class LoadFailure:
    """A recording that could not be read during the run."""

    source_name: str
    file: str
    message: str


@final
class BatchLoader:
    """Reads the crops of a batch, in any thread.

    A recording that cannot be read is named once, counted, and left out: another of the same source that is long enough
    takes its place in the batch. Only where there is none is the batch smaller than planned.
    """

    def __init__(
        self,
        fmt: AudioFormat,
        *,
        normalize: bool,
        on_failure: Callable[[LoadFailure], None] | None = None,
    ) -> None:
        """
        :param fmt: The format that the files must have or may be brought to.
        :param normalize: Whether each crop is brought to zero mean and unit variance.
        :param on_failure: Called once for each recording that cannot be read, possibly from a worker thread.
        """
        self._format = fmt
        self._normalize = normalize
        self._on_failure = on_failure
        self._bad: dict[str, set[int]] = {}
        self._lock = threading.Lock()

    def load(self, utterances: Utterances, plan: BatchPlan) -> SequenceBatch:
        """Read a batch.

        :param utterances: What the plan's indices mean.
        :param plan: The crops.
        :returns: Waveforms without padding. *Shape:* ``(N, S)``.
        :raises InputError: If no utterance of the source can be read any more.
        """
        rows = [
            self._read(utterances, crop.utterance, crop.start, plan.num_samples)
            for crop in plan.crops
        ]

        good_rows = [row for row in rows if row is not None] or [self._read_longest(utterances)]

        waveforms = torch.from_numpy(np.stack(good_rows))

        if self._normalize:
            waveforms = layer_norm(waveforms, waveforms.shape[-1:])

        return SequenceBatch(waveforms, seq_lens=None)

    def num_bad(self, source_name: str) -> int:
        """Return how many recordings of a source could not be read so far."""
        with self._lock:
            return len(self._bad.get(source_name, ()))

    def _read(
        self, utterances: Utterances, index: int, start: int, num_samples: int
    ) -> npt.NDArray[np.float32] | None:
        for candidate in self._candidates(utterances, index, num_samples):
            # A stand-in is read from its start: the random place was drawn for another length.
            first = start if candidate == index else 0

            row = self._read_one(utterances, candidate, first, num_samples)
            if row is not None:
                return row

        return None

    def _read_one(
        self, utterances: Utterances, index: int, start: int, num_samples: int
    ) -> npt.NDArray[np.float32] | None:
        manifest, entry_nr = utterances.items[index]
        entry = manifest.entries[entry_nr]

        try:
            return read_audio(
                manifest.locate(entry), entry, self._format, start=start, num_samples=num_samples
            )
        except AudioError as ex:
            self._report(utterances, index, ex)

            return None

    def _read_longest(self, utterances: Utterances) -> npt.NDArray[np.float32]:
        """Read the longest utterance that can be read, where none is as long as the plan has it."""
        for index in np.argsort(-utterances.lengths, kind="stable"):
            row = self._read_one(utterances, int(index), 0, int(utterances.lengths[index]))
            if row is not None:
                return row

        raise InputError(
            f"{utterances.source_name}: no recording can be read any more; run `eqssl check` on the corpus and mend or "
            "remove the files that it names."
        )

    def _candidates(self, utterances: Utterances, index: int, num_samples: int) -> Iterator[int]:
        """Yield the utterance itself and then, should it fail, those after it that are long enough.

        Which recordings failed earlier is not looked at, so that a resumed run reads what the first one did.
        """
        count = len(utterances.lengths)

        for i in range(index, index + count):
            if i == index or utterances.lengths[i % count] >= num_samples:
                yield i % count

    def _report(self, utterances: Utterances, index: int, ex: AudioError) -> None:
        with self._lock:
            bad = self._bad.setdefault(utterances.source_name, set())
            if index in bad:
                return

            bad.add(index)

        if self._on_failure is not None:
            manifest, entry_nr = utterances.items[index]
            failure = LoadFailure(utterances.source_name, manifest.entries[entry_nr].path, str(ex))
            self._on_failure(failure)


def list_utterances(
    source: DataSource, manifest: Manifest, good: Sequence[int], lengths: Sequence[int]
) -> Utterances:
    """Describe the usable utterances of one split of a source.

    :param source: The data source.
    :param manifest: The manifest of the split.
    :param good: The indices of the usable entries.
    :param lengths: Their numbers of samples at the wanted rate.
    """
    return Utterances(
        source.name, tuple((manifest, i) for i in good), np.asarray(lengths, dtype=np.int64)
    )
