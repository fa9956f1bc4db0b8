"""From planned batches to waveforms."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from fairseq2.datasets import SequenceBatch
from torch import Tensor
from torch.nn.functional import layer_norm

from eqssl_speech.data.audio import AudioError, AudioFormat, read_audio
from eqssl_speech.data.batching import BatchPlan, Crop
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.labelled import FrameLabels, LabelledBatch, SpeechBatch
from eqssl_speech.data.manifest import Manifest
from eqssl_speech.error import InputError
from eqssl_speech.text.frames import num_frames


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

    num_bad: int
    """How many recordings of the source could not be read so far, this one included."""


class DeadSourceError(InputError):
    """Raised when none of the recordings of a source can be read any more."""


@final
class UtteranceReader:
    """Reads utterances, in any thread. A recording that cannot be read is named once and counted."""

    def __init__(
        self,
        fmt: AudioFormat,
        on_failure: Callable[[LoadFailure], None] | None = None,
    ) -> None:
        """
        :param fmt: The format that the files must have or may be brought to.
        :param on_failure: Called once for each recording that cannot be read, possibly from a worker thread.
        """
        self._format = fmt
        self._on_failure = on_failure
        self._bad: dict[str, set[int]] = {}
        self._lock = threading.Lock()

    def read(
        self, utterances: Utterances, index: int, *, start: int = 0, num_samples: int | None = None
    ) -> npt.NDArray[np.float32] | None:
        """Read an utterance or a part of it.

        :param utterances: What the index means.
        :param index: The utterance.
        :param start: The first sample.
        :param num_samples: The length; by default that of the utterance.
        :returns: The waveform, or ``None`` if it cannot be read. *Shape:* ``(S,)``.
        """
        manifest, entry_nr = utterances.items[index]
        entry = manifest.entries[entry_nr]

        if num_samples is None:
            num_samples = int(utterances.lengths[index])

        try:
            return read_audio(
                manifest.locate(entry), entry, self._format, start=start, num_samples=num_samples
            )
        except AudioError as ex:
            self._report(utterances, index, ex)

            return None

    def num_bad(self, source_name: str) -> int:
        """Return how many recordings of a source could not be read so far."""
        with self._lock:
            return len(self._bad.get(source_name, ()))

    def _report(self, utterances: Utterances, index: int, ex: AudioError) -> None:
        with self._lock:
            bad = self._bad.setdefault(utterances.source_name, set())
            if index in bad:
                return

            bad.add(index)

            num_bad = len(bad)

        if self._on_failure is not None:
            manifest, entry_nr = utterances.items[index]
            file = manifest.entries[entry_nr].path
            self._on_failure(LoadFailure(utterances.source_name, file, str(ex), num_bad))


@dataclass(frozen=True)
class _Row:
    """A crop that was read."""

    utterance: int
    start: int
    waveform: npt.NDArray[np.float32]


@final
class BatchLoader:
    """Reads the crops of a batch, in any thread.

    A recording that cannot be read is left out: another of the same source that is long enough takes its place in the
    batch. Only where there is none is the batch smaller than planned.

    Of a source none of whose recordings could be read, only those that a batch is planned with are tried again, until
    one of them can be read: looking at all of them takes long where there are many.
    """

    def __init__(
        self,
        reader: UtteranceReader,
        *,
        normalize: bool,
        labels: FrameLabels | None = None,
        pin_memory: bool = False,
    ) -> None:
        """
        :param reader: Reads the utterances.
        :param normalize: Whether each crop is brought to zero mean and unit variance.
        :param labels: If given, batches carry the labels of their frames, and crops begin where a frame does.
        :param pin_memory: Whether batches lie in memory from which a GPU copies while it computes.
        """
        self._reader = reader
        self._normalize = normalize
        self._labels = labels
        self._pin_memory = pin_memory

        # The utterances of a run live as long as it.
        self._dead: set[int] = set()

    def load(self, utterances: Utterances, plan: BatchPlan) -> SpeechBatch:
        """Read a batch.

        :param utterances: What the plan's indices mean.
        :param plan: The crops.
        :returns: Waveforms without padding. *Shape:* ``(N, S)``. With labels, a :class:`LabelledBatch`.
        :raises DeadSourceError: If no utterance of the source can be read any more.
        """
        key = id(utterances)
        was_dead = key in self._dead
        alone = was_dead
        good_rows = []

        for crop in plan.crops:
            row = self._read(utterances, crop, plan.num_samples, alone=alone)

            if row is not None:
                good_rows.append(row)
            else:
                # Nothing could take its place, so nothing can take that of another.
                alone = True

        if was_dead and not good_rows:
            raise _no_longer_readable(utterances)

        if was_dead:
            self._dead.discard(key)

            return self.load(utterances, plan)

        if not good_rows:
            good_rows = [self._read_longest(utterances)]

        waveforms = torch.from_numpy(np.stack([row.waveform for row in good_rows]))

        if self._normalize:
            waveforms = layer_norm(waveforms, waveforms.shape[-1:])

        if self._labels is None:
            return self._make_batch(waveforms, None)

        labels = np.stack([self._read_labels(utterances, row) for row in good_rows], axis=1)

        return self._make_batch(waveforms, torch.from_numpy(labels))

    def make_silence(self, plan: BatchPlan) -> SpeechBatch:
        """Return silence in the shape of a batch, where there is nothing to read.

        :param plan: The batch.
        """
        num_crops, labels = len(plan.crops), None

        if self._labels is not None:
            shape = (len(self._labels.num_codes), num_crops, num_frames(plan.num_samples))
            labels = torch.zeros(shape, dtype=torch.int64)

        return self._make_batch(torch.zeros((num_crops, plan.num_samples)), labels)

    def _make_batch(self, waveforms: Tensor, labels: Tensor | None) -> SpeechBatch:
        if self._pin_memory:
            waveforms = waveforms.pin_memory()

        audio = SequenceBatch(waveforms, seq_lens=None)

        if labels is None:
            return audio

        return LabelledBatch(audio, labels.pin_memory() if self._pin_memory else labels)

    def _read_labels(self, utterances: Utterances, row: _Row) -> npt.NDArray[np.int64]:
        assert self._labels is not None

        manifest, entry_nr = utterances.items[row.utterance]

        return self._labels.read(
            manifest, entry_nr, start=row.start, num_frames=num_frames(len(row.waveform))
        )

    def _read(
        self, utterances: Utterances, crop: Crop, num_samples: int, *, alone: bool
    ) -> _Row | None:
        index = crop.utterance

        candidates: Iterable[int] = [index]
        if not alone:
            candidates = list_stand_ins(utterances, index, min_num_samples=num_samples)

        start = crop.start

        if self._labels is not None:
            start -= start % self._labels.crop_multiple

        for candidate in candidates:
            # A stand-in is read from its start: the random place was drawn for another length.
            first = start if candidate == index else 0

            waveform = self._reader.read(
                utterances, candidate, start=first, num_samples=num_samples
            )
            if waveform is not None:
                return _Row(candidate, first, waveform)

        return None

    def _read_longest(self, utterances: Utterances) -> _Row:
        """Read the longest utterance that can be read, where none is as long as the plan has it."""
        for index in np.argsort(-utterances.lengths, kind="stable"):
            waveform = self._reader.read(utterances, int(index))
            if waveform is not None:
                return _Row(int(index), 0, waveform)

        self._dead.add(id(utterances))

        raise _no_longer_readable(utterances)


def _no_longer_readable(utterances: Utterances) -> DeadSourceError:
    return DeadSourceError(
        f"{_say_nothing_readable(utterances)}, or set `dataset.on_dead_source` to 'skip' to go on without the source."
    )


def list_stand_ins(
    utterances: Utterances,
    index: int,
    *,
    min_num_samples: int = 0,
    max_num_samples: int | None = None,
) -> Iterator[int]:
    """Yield an utterance and then, should it fail, those after it of a length that fits its place.

    Which recordings failed earlier is not looked at, so that a resumed run reads what the first one did.

    :param utterances: All of them.
    :param index: The utterance.
    :param min_num_samples: The least length of a stand-in.
    :param max_num_samples: The greatest, if any.
    """
    count = len(utterances.lengths)

    for i in range(index, index + count):
        length = int(utterances.lengths[i % count])

        fits = length >= min_num_samples and (max_num_samples is None or length <= max_num_samples)
        if i == index or fits:
            yield i % count


def nothing_readable(utterances: Utterances) -> InputError:
    """Return the error of a source none of whose recordings can be read any more."""
    return InputError(f"{_say_nothing_readable(utterances)}.")


def _say_nothing_readable(utterances: Utterances) -> str:
    return (
        f"{utterances.source_name}: no recording can be read any more; run `eqssl check` on the corpus and mend or "
        "remove the files that it names"
    )


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
