"""Batches of whole utterances: what they hold, how they are planned, and what a bad recording does to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eqssl_speech.data.audio import AudioFormat, read_audio
from eqssl_speech.data.batching import BatchPlan, BatchSize, BatchStream, Crop, plan_whole
from eqssl_speech.data.corpus import load_corpus
from eqssl_speech.data.loading import LoadFailure, UtteranceReader, list_utterances
from eqssl_speech.data.manifest import read_manifest
from eqssl_speech.data.transcribed import TranscribedLoader, TranscribedUtterances, pad_waveforms
from eqssl_speech.error import InputError

FORMAT = AudioFormat()


@pytest.fixture
def source(make_corpus: Callable[..., Path], tmp_path: Path) -> TranscribedUtterances:
    """Six utterances of different lengths, with as many labels as their index says, and two more."""
    corpus = load_corpus(make_corpus(tmp_path / "corpus", formats=("wav",), min_duration_s=0.5))
    source = corpus.sources[0]
    manifest = read_manifest(source.manifest_file("train"))

    lengths = [entry.num_samples for entry in manifest.entries]
    utterances = list_utterances(source, manifest, range(len(lengths)), lengths)

    labels = tuple(tuple(range(1, i + 3)) for i in range(len(lengths)))

    return TranscribedUtterances(utterances, ("x",) * len(lengths), labels, "en")


def plan(source: TranscribedUtterances, *indices: int) -> BatchPlan:
    longest = max(int(source.utterances.lengths[i]) for i in indices)

    return BatchPlan(tuple(Crop(i, 0) for i in indices), longest)


def test_batch_holds_whole_utterances_with_their_labels(source: TranscribedUtterances) -> None:
    batch = TranscribedLoader(UtteranceReader(FORMAT), normalize=False).load(
        plan(source, 4, 1), source, seed=5
    )

    seqs, layout = batch.as_input()

    assert batch.indices == (4, 1)
    assert batch.seed == 5
    assert batch.target_lens == [6, 3]
    assert batch.targets.tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 0, 0, 0]]
    assert layout.seq_lens == [int(source.utterances.lengths[i]) for i in (4, 1)]

    for row, index in zip(seqs, batch.indices):
        manifest, entry_nr = source.utterances.items[index]
        entry = manifest.entries[entry_nr]
        wanted = torch.from_numpy(read_audio(manifest.locate(entry), entry, FORMAT))

        assert torch.equal(row[: len(wanted)], wanted)
        assert not row[len(wanted) :].any()


def test_normalization_does_not_see_the_padding() -> None:
    rng = np.random.default_rng(1)
    waveforms = [(3 + 2 * rng.standard_normal(n)).astype(np.float32) for n in (800, 500)]

    seqs, layout = pad_waveforms(waveforms, normalize=True).as_input()

    for row, length in zip(seqs, layout.seq_lens):
        assert row[:length].mean().item() == pytest.approx(0.0, abs=1e-5)
        assert row[:length].std().item() == pytest.approx(1.0, abs=1e-2)
        assert not row[length:].any()


def test_unreadable_recording_is_replaced_by_one_that_fits_with_its_own_labels(
    source: TranscribedUtterances,
) -> None:
    lengths = source.utterances.lengths
    longest, bad = int(lengths.argmax()), int(lengths.argsort()[-2])

    manifest, entry_nr = source.utterances.items[bad]
    manifest.locate(manifest.entries[entry_nr]).write_bytes(b"no audio at all")

    failures: list[LoadFailure] = []
    loader = TranscribedLoader(UtteranceReader(FORMAT, failures.append), normalize=False)

    batch = loader.load(plan(source, bad), source)

    (index,) = batch.indices

    assert index not in (bad, longest)
    assert batch.target_lens == [len(source.labels[index])]
    assert len(failures) == 1


def test_source_without_a_readable_recording_is_an_error(source: TranscribedUtterances) -> None:
    for manifest, entry_nr in source.utterances.items:
        manifest.locate(manifest.entries[entry_nr]).write_bytes(b"")

    loader = TranscribedLoader(UtteranceReader(FORMAT), normalize=False)

    with pytest.raises(InputError, match="no recording can be read any more"):
        loader.load(plan(source, 0), source)


@pytest.mark.parametrize("seed", range(4))
def test_pass_holds_every_utterance_once_within_the_budget(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1_000, 16_000, 77)

    stream = BatchStream(
        lengths, BatchSize(num_samples=40_000, max_num_samples=40_000), seed=seed, key=1,
        cropped=False,
    )  # fmt: skip

    seen: list[int] = []
    passes = []

    while len(seen) < 3 * len(lengths):
        batch = next(stream)
        utterances = [crop.utterance for crop in batch.crops]

        assert batch.num_samples == max(lengths[u] for u in utterances)
        assert batch.num_samples * len(utterances) <= 40_000
        assert all(crop.start == 0 for crop in batch.crops)

        seen += utterances

        if stream.position[1] == len(stream._plans):
            passes.append(seen[len(passes) * len(lengths) :])

    assert len(passes) == 3
    assert all(sorted(p) == list(range(len(lengths))) for p in passes)
    assert passes[0] != passes[1]


@pytest.mark.parametrize("seed", range(4))
def test_validation_plan_holds_every_utterance_once(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1_000, 50_000, 31)

    plans = plan_whole(lengths, 40_000)
    alone = plan_whole(lengths, 0)

    assert sorted(c.utterance for p in plans for c in p.crops) == list(range(31))
    assert [len(p.crops) for p in alone] == [1] * 31

    for p in plans:
        assert p.num_samples == max(lengths[c.utterance] for c in p.crops)
        assert len(p.crops) == 1 or p.num_samples * len(p.crops) <= 40_000


@pytest.mark.parametrize("seed", range(6))
def test_batches_of_a_pass_are_well_filled_and_none_is_next_to_empty(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(8_000, 80_000, 140)
    size = BatchSize(num_samples=240_000, max_num_samples=240_000)

    stream = BatchStream(lengths, size, seed=seed, key=1, cropped=False)

    fills = [
        sum(int(lengths[c.utterance]) for c in plan.crops) / size.num_samples
        for plan in stream._plans
    ]

    assert np.mean(fills) > 0.75
    assert min(fills) > 0.25
