"""Speech with text: utterances, their labels, and padded batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from fairseq2.datasets import SequenceBatch
from fairseq2.device import Device, SupportsDeviceTransfer
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn.functional import layer_norm
from typing_extensions import override

from eqssl_speech.data.batching import BatchPlan
from eqssl_speech.data.episodes import EpisodePlan
from eqssl_speech.data.loading import (
    UtteranceReader,
    Utterances,
    list_stand_ins,
    nothing_readable,
)


@dataclass(frozen=True)
class TranscribedUtterances:
    """The usable utterances of one split of one source, with their text."""

    utterances: Utterances
    texts: tuple[str, ...]
    """The normalised text of each, which error rates are measured against."""

    labels: tuple[tuple[int, ...], ...]
    """What the model is taught to emit for each: indices into the vocabulary, out-of-vocabulary pieces left out."""

    language: str

    @property
    def source_name(self) -> str:
        """The data source."""
        return self.utterances.source_name

    @property
    def num_samples(self) -> int:
        """The samples of all utterances."""
        return self.utterances.num_samples

    def describe(self, index: int) -> str:
        """Name an utterance, as ``manifest:line (recording)``."""
        manifest, entry_nr = self.utterances.items[index]

        return f"{manifest.describe_line(entry_nr)} ({manifest.entries[entry_nr]})"

    def take(self, indices: Sequence[int]) -> TranscribedUtterances:
        """Return some of the utterances."""
        utterances = Utterances(
            self.source_name,
            tuple(self.utterances.items[i] for i in indices),
            self.utterances.lengths[list(indices)],
        )

        return TranscribedUtterances(
            utterances,
            tuple(self.texts[i] for i in indices),
            tuple(self.labels[i] for i in indices),
            self.language,
        )


@final
@dataclass
class TranscribedBatch(SupportsDeviceTransfer):
    """Utterances of one source, whole, with their labels."""

    source_name: str

    audio: SequenceBatch
    """The waveforms, padded with zeros. *Shape:* ``(N, S)``."""

    targets: Tensor
    """The labels, padded with zeros. *Shape:* ``(N, L)``."""

    target_lens: list[int]
    """The number of labels of each utterance."""

    indices: tuple[int, ...]
    """The number of each utterance within its source and split."""

    seed: int = 0
    """For the random draws of the batch (masks, dropout), whichever rank has it."""

    @override
    def to(self, device: Device, *, non_blocking: bool = False) -> None:
        self.audio.to(device, non_blocking=non_blocking)

        self.targets = self.targets.to(device, non_blocking=non_blocking)

    def as_input(self) -> tuple[Tensor, BatchLayout]:
        """Return the waveforms and their lengths, as models take them."""
        return self.audio.as_input()

    @property
    def batch_size(self) -> int:
        """The number of utterances."""
        return self.audio.batch_size

    @property
    def num_samples(self) -> int:
        """The number of samples without padding."""
        return self.audio.num_elements


@final
class TranscribedLoader:
    """Reads whole utterances and their labels, in any thread.

    A recording that cannot be read is left out: another of the same source that is no longer than the batch is wide
    takes its place, with its own text.
    """

    def __init__(self, reader: UtteranceReader, *, normalize: bool) -> None:
        """
        :param reader: Reads the recordings.
        :param normalize: Whether each waveform is brought to zero mean and unit variance.
        """
        self._reader = reader
        self._normalize = normalize

    def load_episode(
        self, plan: EpisodePlan, sources: Sequence[TranscribedUtterances]
    ) -> TranscribedBatch:
        """Read what a plan of one batch says.

        :param plan: What to read.
        :param sources: The utterances of each stream.
        """
        (batch,) = plan.batches

        return self.load(batch, sources[plan.stream], seed=plan.seed)

    def load(
        self, plan: BatchPlan, source: TranscribedUtterances, *, seed: int = 0
    ) -> TranscribedBatch:
        """Read a batch.

        :param plan: The utterances.
        :param source: What the plan's indices mean.
        :param seed: Goes into the batch.
        :raises InputError: If no utterance of the source can be read any more.
        """
        read = [self._read(source.utterances, c.utterance, plan.num_samples) for c in plan.crops]

        rows = [row for row in read if row is not None]
        if not rows:
            raise nothing_readable(source.utterances)

        indices = tuple(index for index, _ in rows)

        return TranscribedBatch(
            source.source_name,
            pad_waveforms([row for _, row in rows], normalize=self._normalize),
            _pad([source.labels[i] for i in indices]),
            [len(source.labels[i]) for i in indices],
            indices,
            seed,
        )

    def _read(
        self, utterances: Utterances, index: int, max_num_samples: int
    ) -> tuple[int, npt.NDArray[np.float32]] | None:
        for candidate in list_stand_ins(utterances, index, max_num_samples=max_num_samples):
            row = self._reader.read(utterances, candidate)
            if row is not None:
                return candidate, row

        return None


def pad_waveforms(
    waveforms: Sequence[npt.NDArray[np.float32]], *, normalize: bool
) -> SequenceBatch:
    """Put waveforms into one batch.

    :param waveforms: *Shape:* ``(S_i,)`` each.
    :param normalize: Whether each is brought to zero mean and unit variance first, by itself.
    :returns: *Shape:* ``(N, max S_i)``, padded with zeros.
    """
    lengths = [len(w) for w in waveforms]

    seqs = torch.zeros((len(waveforms), max(lengths)))

    for row, waveform in zip(seqs, waveforms):
        tensor = torch.from_numpy(waveform)

        row[: len(waveform)] = layer_norm(tensor, tensor.shape) if normalize else tensor

    # Without padding no mask is needed, which is faster.
    return SequenceBatch(seqs, None if len(set(lengths)) == 1 else lengths)


def _pad(labels: Sequence[Sequence[int]]) -> Tensor:
    padded = torch.zeros((len(labels), max(1, max(len(row) for row in labels))), dtype=torch.int64)

    for row, values in zip(padded, labels):
        row[: len(values)] = torch.tensor(values, dtype=torch.int64)

    return padded
