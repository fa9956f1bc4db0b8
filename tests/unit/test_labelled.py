"""Each frame of a batch carries the label that was given to it, whatever is cropped and whatever cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq2.datasets import SequenceBatch
from numpy.typing import NDArray

from eqssl_speech.data.audio import AudioFormat
from eqssl_speech.data.batching import BatchPlan, BatchSize, BatchStream, Crop
from eqssl_speech.data.labelled import LabelledBatch, clone_batch, with_audio
from eqssl_speech.data.loading import BatchLoader, UtteranceReader, Utterances
from eqssl_speech.data.manifest import Manifest, read_manifest
from eqssl_speech.error import InputError

STRIDE = 320


class Positions:
    """Labels that say where in which utterance a frame begins; two sets of them."""

    num_codes = (1_000_000, 50)
    crop_multiple = STRIDE

    def read(
        self, manifest: Manifest, entry_nr: int, *, start: int, num_frames: int
    ) -> NDArray[np.int64]:
        assert start % STRIDE == 0

        frames = np.arange(num_frames, dtype=np.int64) * STRIDE + start

        return np.stack([frames, np.full_like(frames, entry_nr)])


@pytest.fixture
def utterances(tmp_path: Path, write_audio: Callable[..., int]) -> Utterances:
    """Four recordings of 1 to 1.3 s whose samples say where they are: each is a ramp of 2^15 samples' length."""
    lengths, lines = [], ["."]

    for i in range(4):
        samples = np.arange(16_000 + 1_600 * i, dtype=np.float32) / 32_768
        write_audio(tmp_path / f"{i}.wav", samples)
        lengths.append(len(samples))
        lines.append(f"{i}.wav\t{len(samples)}")

    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    manifest = read_manifest(tmp_path / "train.tsv")

    return Utterances("ramps", tuple((manifest, i) for i in range(4)), np.array(lengths))


def make_loader(*, normalize: bool = False) -> BatchLoader:
    return BatchLoader(UtteranceReader(AudioFormat()), normalize=normalize, labels=Positions())


def check_labels(batch: object, num_samples: int) -> LabelledBatch:
    assert isinstance(batch, LabelledBatch)

    num_frames = (num_samples - 400) // STRIDE + 1

    assert batch.seqs.shape == (batch.batch_size, num_samples)
    assert batch.labels.shape == (2, batch.batch_size, num_frames)
    assert batch.labels.dtype == torch.int64

    # The first sample of each frame is the number of samples before it.
    firsts = batch.seqs[:, : num_frames * STRIDE : STRIDE] * 32_768

    assert torch.equal(firsts.round().long(), batch.labels[0])

    return batch


def test_labels_are_those_of_the_frames_of_each_crop(utterances: Utterances) -> None:
    size = BatchSize(num_samples=33_000, max_num_samples=16_000, min_num_samples=8_000)
    stream = BatchStream(utterances.lengths, size, seed=3, key=1)
    loader = make_loader()
    starts = set()

    for _ in range(20):
        plan = next(stream)
        batch = check_labels(loader.load(utterances, plan), plan.num_samples)

        assert batch.labels[1, :, 0].tolist() == [crop.utterance for crop in plan.crops]

        for crop, start in zip(plan.crops, batch.labels[0, :, 0].tolist(), strict=True):
            # No crop is moved by a frame or more.
            assert 0 <= crop.start - start < STRIDE
            starts.add(start)

    assert len(starts) > 3


def test_a_stand_in_brings_its_own_labels(utterances: Utterances) -> None:
    manifest, _ = utterances.items[1]
    manifest.locate(manifest.entries[1]).write_bytes(b"no audio")

    plan = BatchPlan((Crop(0, 700), Crop(1, 1_000)), 9_000)
    batch = check_labels(make_loader().load(utterances, plan), 9_000)

    assert batch.labels[:, :, 0].tolist() == [[640, 0], [0, 2]]


def test_where_nothing_is_as_long_as_planned_labels_are_as_many_as_its_frames(
    utterances: Utterances,
) -> None:
    manifest, _ = utterances.items[3]
    manifest.locate(manifest.entries[3]).write_bytes(b"no audio")

    batch = check_labels(
        make_loader().load(utterances, BatchPlan((Crop(3, 0),), 20_800)), 16_000 + 1_600 * 2
    )

    assert batch.labels[1, :, 0].tolist() == [2]


def test_silence_has_labels_too(utterances: Utterances) -> None:
    batch = make_loader().make_silence(BatchPlan((Crop(0, 0), Crop(1, 0)), 9_000))

    assert isinstance(batch, LabelledBatch)
    assert batch.labels.shape == (2, 2, (9_000 - 400) // STRIDE + 1)
    assert not batch.labels.any()
    assert not batch.seqs.any()


def test_a_source_of_which_nothing_can_be_read_is_named(utterances: Utterances) -> None:
    for manifest, i in utterances.items:
        manifest.locate(manifest.entries[i]).write_bytes(b"")

    with pytest.raises(InputError, match="ramps: no recording can be read any more"):
        make_loader().load(utterances, BatchPlan((Crop(0, 0),), 9_000))


def test_copies_and_other_audio_keep_the_labels(utterances: Utterances) -> None:
    batch = make_loader().load(utterances, BatchPlan((Crop(0, 320), Crop(2, 0)), 9_000))
    assert isinstance(batch, LabelledBatch)

    for other in (clone_batch(batch), with_audio(batch, batch.seqs + 1)):
        assert isinstance(other, LabelledBatch)
        assert torch.equal(other.labels, batch.labels)

    copy = clone_batch(batch)
    assert isinstance(copy, LabelledBatch)
    copy.labels.zero_()
    copy.seqs.zero_()
    assert batch.labels.any()
    assert batch.seqs.any()

    assert torch.equal(with_audio(batch, batch.seqs + 1).seqs, batch.seqs + 1)
    assert isinstance(clone_batch(SequenceBatch(batch.seqs, None)), SequenceBatch)
    assert batch.num_elements == 18_000
