"""Batches of speech with a label for each frame, as masked prediction is taught with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt
from fairseq2.datasets import SequenceBatch
from fairseq2.device import Device, SupportsDeviceTransfer
from torch import Tensor
from typing_extensions import override

from eqssl_speech.data.manifest import Manifest


class FrameLabels(Protocol):
    """Labels of the frames of utterances, in one or several sets."""

    @property
    def num_codes(self) -> tuple[int, ...]:
        """How many different labels each set has."""

    @property
    def crop_multiple(self) -> int:
        """Crops have to begin at a multiple of so many samples, where a frame of each set begins too."""

    def read(
        self, manifest: Manifest, entry_nr: int, *, start: int, num_frames: int
    ) -> npt.NDArray[np.int64]:
        """Read the labels of a crop, in any thread.

        :param manifest: The utterance's manifest.
        :param entry_nr: The utterance.
        :param start: The first sample of the crop.
        :param num_frames: The frames that a model makes of the crop.
        :returns: *Shape:* ``(L, T)``, L sets.
        """


@final
@dataclass
class LabelledBatch(SupportsDeviceTransfer):
    """Crops of one length, and the label of each of their frames."""

    audio: SequenceBatch
    """The waveforms. *Shape:* ``(N, S)``."""

    labels: Tensor
    """Of the frames that a model makes of them, in L sets. *Shape:* ``(L, N, T)``."""

    @override
    def to(self, device: Device, *, non_blocking: bool = False) -> None:
        self.audio.to(device, non_blocking=non_blocking)

        self.labels = self.labels.to(device, non_blocking=non_blocking)

    @property
    def seqs(self) -> Tensor:
        """The waveforms. *Shape:* ``(N, S)``."""
        return self.audio.seqs

    @property
    def batch_size(self) -> int:
        """The number of crops."""
        return self.audio.batch_size

    @property
    def num_elements(self) -> int:
        """The number of samples of all crops."""
        return self.audio.num_elements


SpeechBatch: TypeAlias = SequenceBatch | LabelledBatch
"""What a self-supervised criterion takes."""


def with_audio(batch: SpeechBatch, seqs: Tensor) -> SpeechBatch:
    """Return a batch with other waveforms of the same shape, and the labels as they are.

    :param batch: A batch without padding.
    :param seqs: *Shape:* ``(N, S)``.
    """
    audio = SequenceBatch(seqs, None)

    return LabelledBatch(audio, batch.labels) if isinstance(batch, LabelledBatch) else audio


def clone_batch(batch: SpeechBatch) -> SpeechBatch:
    """Return a copy of a batch without padding."""
    audio = SequenceBatch(batch.seqs.clone(), None)

    return LabelledBatch(audio, batch.labels.clone()) if isinstance(batch, LabelledBatch) else audio
