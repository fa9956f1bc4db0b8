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
from torch.nn.functional import layer_norm

from eqssl_speech.data.audio import AudioError, AudioFormat, read_audio
from eqssl_speech.data.batching import BatchPlan, Crop
from eqssl_speech.data.corpus import DataSource
from eqssl_speech.data.episodes import Episode, EpisodePlan
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


@final
class BatchLoader:
    """Reads the crops of a batch, in any thread.

    A recording that cannot be read is left out: another of the same source that is long enough takes its place in the
    batch. Only where there is none is the batch smaller than planned.

    Of a source none of whose recordings could be read, only those that a batch is planned with are tried again, until
    one of them can be read: looking at all of them takes long where there are many.
    """

    def __init__(
        self, reader: UtteranceReader, *, normalize: bool, pin_memory: bool = False
    ) -> None:
        """
        :param reader: Reads the utterances.
        :param normalize: Whether each crop is brought to zero mean and unit variance.
        :param pin_memory: Whether batches lie in memory from which a GPU copies while it computes.
        """
        self._reader = reader
        self._normalize = normalize
        self._pin_memory = pin_memory

        # The utterances of a run live as long as it.
        self._dead: set[int] = set()

    def load(self, utterances: Utterances, plan: BatchPlan) -> SequenceBatch:
        """Read a batch.

        :param utterances: What the plan's indices mean.
        :param plan: The crops.
        :returns: Waveforms without padding. *Shape:* ``(N, S)``.
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

        waveforms = torch.from_numpy(np.stack(good_rows))

        if self._normalize:
            waveforms = layer_norm(waveforms, waveforms.shape[-1:])

        if self._pin_memory:
            waveforms = waveforms.pin_memory()

        return SequenceBatch(waveforms, seq_lens=None)

    def make_silence(self, plan: BatchPlan) -> SequenceBatch:
        """Return silence in the shape of a batch, where there is nothing to read.

        :param plan: The batch.
        """
        waveforms = torch.zeros((len(plan.crops), plan.num_samples))

        return SequenceBatch(
            waveforms.pin_memory() if self._pin_memory else waveforms, seq_lens=None
        )

    def _read(
        self, utterances: Utterances, crop: Crop, num_samples: int, *, alone: bool
    ) -> npt.NDArray[np.float32] | None:
        index = crop.utterance

        candidates: Iterable[int] = [index]
        if not alone:
            candidates = list_stand_ins(utterances, index, min_num_samples=num_samples)

        for candidate in candidates:
            # A stand-in is read from its start: the random place was drawn for another length.
            first = crop.start if candidate == index else 0

            row = self._reader.read(utterances, candidate, start=first, num_samples=num_samples)
            if row is not None:
                return row

        return None

    def _read_longest(self, utterances: Utterances) -> npt.NDArray[np.float32]:
        """Read the longest utterance that can be read, where none is as long as the plan has it."""
        for index in np.argsort(-utterances.lengths, kind="stable"):
            row = self._reader.read(utterances, int(index))
            if row is not None:
                return row

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


def load_episode(
    plan: EpisodePlan,
    sources: Sequence[Utterances],
    loader: BatchLoader,
    *,
    skip_dead: bool = False,
) -> Episode:
    """Read the batches of an episode.

    :param plan: What to read.
    :param sources: The utterances of each stream.
    :param loader: Reads them.
    :param skip_dead: Whether an episode of a source none of whose recordings can be read is silent and marked as dead.
    :raises InputError: If it is not.
    """
    utterances = sources[plan.stream]

    try:
        batches = [loader.load(utterances, batch) for batch in plan.batches]
    except DeadSourceError as ex:
        if not skip_dead:
            # The host knows errors by their very class.
            raise InputError(str(ex)) from None

        batches = [loader.make_silence(batch) for batch in plan.batches]

        return Episode(utterances.source_name, batches, plan.seed, is_dead=True)

    return Episode(utterances.source_name, batches, plan.seed)


def load_validation_episode(
    plans: tuple[EpisodePlan, EpisodePlan],
    train: Utterances,
    valid: Utterances,
    loader: BatchLoader,
    *,
    skip_dead: bool = False,
) -> Episode:
    """Read an episode of a validation.

    :param plans: The batches to adapt on and those to evaluate.
    :param train: What the indices of the first mean.
    :param valid: What the indices of the second mean.
    :param loader: Reads them.
    :param skip_dead: See :func:`load_episode`.
    """
    to_adapt, to_evaluate = (
        load_episode(plan, [utterances], loader, skip_dead=skip_dead)
        for plan, utterances in zip(plans, (train, valid))
    )

    return Episode(
        valid.source_name,
        to_adapt.batches + to_evaluate.batches,
        is_dead=to_adapt.is_dead or to_evaluate.is_dead,
    )
