"""Readers hand out the same audio after a resume, whatever they had read ahead, and bear bad recordings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from episode_readers import (
    FORMAT,
    assert_same,
    close_readers,
    make_config,
    make_short_corpus,
    open_readers,
)

from eqssl_speech.data.audio import read_audio
from eqssl_speech.data.batching import BatchPlan, Crop
from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.loading import (
    BatchLoader,
    DeadSourceError,
    LoadFailure,
    UtteranceReader,
    Utterances,
)
from eqssl_speech.data.readers import EpisodeReader
from eqssl_speech.error import InputError
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.sources import (
    CheckedSources,
    check_sources,
    create_planner,
    create_train_reader,
)


@pytest.fixture(autouse=True)
def end_of_reading() -> Iterator[None]:
    yield

    close_readers()


def make_reader(
    config: PretrainConfig, sources: CheckedSources, loader: BatchLoader | None = None
) -> EpisodeReader[Episode]:
    planner, _, utterances = create_planner(config, sources.train, num_inner_steps=1)

    reader = create_train_reader(
        config, planner, utterances, loader or BatchLoader(UtteranceReader(FORMAT), normalize=False)
    )

    open_readers.append(reader)

    return reader


def take(reader: EpisodeReader[Episode], num_steps: int) -> list[list[Episode]]:
    return list(islice(reader, num_steps))


def locate(utterances: Utterances, index: int) -> Path:
    manifest, entry_nr = utterances.items[index]

    return manifest.locate(manifest.entries[entry_nr])


def spoil(utterances: Utterances, index: int) -> Path:
    """Replace a recording that has been checked with something that is no audio."""
    file = locate(utterances, index)
    file.write_bytes(b"no audio at all")

    return file


@pytest.fixture
def corpus(make_corpus: Callable[..., Path], tmp_path: Path) -> Path:
    return make_short_corpus(make_corpus, tmp_path / "corpus")


@pytest.fixture
def even_corpus(make_corpus: Callable[..., Path], tmp_path: Path) -> Path:
    """A corpus whose utterances are of one length, so that each can stand in for any other."""
    return make_corpus(
        tmp_path / "even", num_train=8, min_duration_s=0.5, max_duration_s=0.5, formats=("wav",)
    )


@pytest.mark.parametrize("num_steps", [0, 1, 4])
@pytest.mark.parametrize("num_prefetch", [1, 9])
def test_new_reader_continues_bitwise_whatever_the_first_had_read_ahead(
    corpus: Path, num_steps: int, num_prefetch: int
) -> None:
    config = make_config(corpus, num_prefetch=num_prefetch)
    sources = check_sources(config.dataset)

    first = make_reader(config, sources)
    take(first, num_steps)

    # As it comes back from a file.
    state = json.loads(json.dumps(first.state_dict()))

    assert state["step_nr"] == num_steps

    continuation = take(first, 5)

    assert first.state_dict() != state

    second = make_reader(config, sources)
    take(second, 1)
    second.load_state_dict(state)

    assert_same(take(second, 5), continuation)
    assert second.state_dict() == first.state_dict()


def test_number_of_workers_does_not_change_what_is_read(corpus: Path) -> None:
    sources = check_sources(make_config(corpus).dataset)

    alone, many = (
        take(make_reader(make_config(corpus, num_workers=n), sources), 4) for n in (1, 4)
    )

    assert_same(alone, many)


def test_reader_that_is_closed_and_used_again_skips_nothing(corpus: Path) -> None:
    config = make_config(corpus)
    sources = check_sources(config.dataset)

    expected = take(make_reader(config, sources), 4)

    reader = make_reader(config, sources)
    steps = take(reader, 2)
    reader.close()
    steps += take(reader, 2)

    assert_same(steps, expected)

    reader.reset()

    assert_same(take(reader, 4), expected)


def test_step_has_an_episode_of_every_source_with_one_batch_more_than_inner_steps(
    corpus: Path,
) -> None:
    config = make_config(corpus)
    reader = make_reader(config, check_sources(config.dataset))

    assert reader.num_accumulate == 2

    for episodes in take(reader, 3):
        assert [e.source_name for e in episodes] == ["en", "de"]
        assert [len(e.batches) for e in episodes] == [2, 2]

        for episode in episodes:
            num_samples = sum(b.seqs.numel() for b in episode.batches)

            assert episode.num_samples == num_samples
            assert 0 <= 2 * 16_000 - num_samples < episode.num_utterances + 2


def test_state_of_another_number_of_sources_is_refused(corpus: Path) -> None:
    config = make_config(corpus)
    one = make_config(corpus, sources=["en"])

    state = make_reader(one, check_sources(one.dataset)).state_dict()

    with pytest.raises(InputError, match=r"1 data source.*names 2.*`dataset\.sources`"):
        make_reader(config, check_sources(config.dataset)).load_state_dict(state)


def test_bad_recording_is_named_once_and_another_takes_its_place(even_corpus: Path) -> None:
    config = make_config(even_corpus)
    sources = check_sources(config.dataset)

    whole = take(make_reader(config, sources), 8)

    file = spoil(sources.train[1], 3)

    failures: list[LoadFailure] = []
    utterance_reader = UtteranceReader(FORMAT, failures.append)
    loader = BatchLoader(utterance_reader, normalize=False)
    reader = make_reader(config, sources, loader)
    steps = take(reader, 8)

    [failure] = failures

    assert failure.source_name == "de"
    assert file.name in failure.file
    assert file.name in failure.message
    assert (utterance_reader.num_bad("en"), utterance_reader.num_bad("de")) == (0, 1)

    num_changed = 0

    for episodes, whole_episodes in zip(steps, whole, strict=True):
        assert_same([episodes[:1]], [whole_episodes[:1]])

        for batch, whole_batch in zip(episodes[1].batches, whole_episodes[1].batches):
            assert batch.seqs.shape == whole_batch.seqs.shape

            num_changed += int((batch.seqs != whole_batch.seqs).any(dim=1).sum())

    # A pass over the eight utterances takes two steps, so the bad one had its turn four times.
    assert num_changed == 4


def test_resumed_reader_replaces_a_bad_recording_by_the_same_one(even_corpus: Path) -> None:
    config = make_config(even_corpus)
    sources = check_sources(config.dataset)

    spoil(sources.train[0], 5)

    first = make_reader(config, sources)
    take(first, 6)
    state = first.state_dict()
    continuation = take(first, 6)

    # Its loader knows nothing of what failed in the first.
    second = make_reader(config, sources)
    second.load_state_dict(state)

    assert_same(take(second, 6), continuation)


def test_stand_in_is_the_next_that_is_long_enough_from_its_start(corpus: Path) -> None:
    sources = check_sources(make_config(corpus).dataset)
    utterances = sources.train[0]

    order = sorted(range(3), key=lambda i: int(utterances.lengths[i]))  # Files of their own.
    bad = order[0]
    num_samples = int(utterances.lengths[bad]) - 100

    spoil(utterances, bad)

    batch = BatchLoader(UtteranceReader(FORMAT), normalize=False).load(
        utterances, BatchPlan((Crop(bad, 60),), num_samples)
    )

    stand_in = next(i for i in range(bad + 1, bad + 6) if utterances.lengths[i % 6] >= num_samples)
    manifest, entry_nr = utterances.items[stand_in % 6]
    entry = manifest.entries[entry_nr]

    expected = read_audio(manifest.locate(entry), entry, FORMAT, start=0, num_samples=num_samples)

    assert torch.equal(batch.seqs, torch.from_numpy(expected)[None])


def test_batch_is_smaller_only_where_no_recording_is_long_enough(corpus: Path) -> None:
    utterances = check_sources(make_config(corpus).dataset).train[0]
    lengths = [int(n) for n in utterances.lengths]
    num_samples = lengths[1] + lengths[2]

    # One that has a file of its own, as if it were longer than all others.
    utterances = Utterances(
        "en", utterances.items[:3], utterances.lengths[:3] + np.array([num_samples, 0, 0])
    )

    spoil(utterances, 0)

    batch = BatchLoader(UtteranceReader(FORMAT), normalize=False).load(
        utterances, BatchPlan((Crop(0, 0),), num_samples)
    )

    assert batch.seqs.shape == (1, max(lengths[1:3]))


def test_source_without_a_readable_recording_stops_the_run(even_corpus: Path) -> None:
    config = make_config(even_corpus)
    sources = check_sources(config.dataset)

    for i in range(8):
        spoil(sources.train[1], i)

    failures: list[LoadFailure] = []
    utterance_reader = UtteranceReader(FORMAT, failures.append)
    loader = BatchLoader(utterance_reader, normalize=False)

    with pytest.raises(InputError, match=r"^de: no recording can be read any more.*eqssl check"):
        take(make_reader(config, sources, loader), 2)

    assert sorted(f.file for f in failures) == sorted({f.file for f in failures})
    assert len(failures) == utterance_reader.num_bad("de") == 8


def test_normalized_crops_have_zero_mean_and_unit_variance(corpus: Path) -> None:
    config = make_config(corpus)
    sources = check_sources(config.dataset)

    [[plain, _]] = take(make_reader(config, sources), 1)
    [[normalized, _]] = take(
        make_reader(config, sources, BatchLoader(UtteranceReader(FORMAT), normalize=True)), 1
    )

    for batch, plain_batch in zip(normalized.batches, plain.batches, strict=True):
        seqs = plain_batch.seqs.double()

        # The epsilon keeps near-silence from being blown up.
        scales = (seqs.var(dim=1, correction=0, keepdim=True) + 1e-5).rsqrt()
        expected = (seqs - seqs.mean(dim=1, keepdim=True)) * scales

        torch.testing.assert_close(batch.seqs.double(), expected, atol=1e-5, rtol=1e-4)


def test_dead_source_is_silent_on_request_and_comes_back_with_its_files(even_corpus: Path) -> None:
    config = make_config(even_corpus, on_dead_source="skip", num_prefetch=1)
    sources = check_sources(config.dataset)
    whole = take(make_reader(config, sources), 4)

    files = [locate(sources.train[1], i) for i in range(8)]
    contents = [file.read_bytes() for file in files]

    for i in range(8):
        spoil(sources.train[1], i)

    reader = make_reader(config, sources)
    steps = take(reader, 3)

    for (good, dead), (whole_good, whole_dead) in zip(steps, whole):
        assert_same([[good]], [[whole_good]])
        assert (good.is_dead, dead.is_dead) == (False, True)
        assert (dead.source_name, dead.seed) == (whole_dead.source_name, whole_dead.seed)

        for batch, whole_batch in zip(dead.batches, whole_dead.batches, strict=True):
            assert batch.seqs.shape == whole_batch.seqs.shape
            assert not batch.seqs.any()

    for file, content in zip(files, contents):
        file.write_bytes(content)

    reader.close()

    assert_same(take(reader, 1), whole[3:])


def test_dead_source_is_not_searched_through_for_each_batch(even_corpus: Path) -> None:
    sources = check_sources(make_config(even_corpus).dataset)
    utterances = sources.train[0]
    plan = BatchPlan((Crop(0, 0), Crop(1, 0), Crop(2, 0)), int(utterances.lengths.min()))

    file = locate(utterances, 1)
    content = file.read_bytes()

    for i in range(8):
        spoil(utterances, i)

    reader = UtteranceReader(FORMAT)
    num_reads, read = 0, reader.read

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_reads
        num_reads += 1

        return read(*args, **kwargs)

    reader.read = count  # type: ignore[method-assign]
    loader = BatchLoader(reader, normalize=False)

    for expected in (8 + 2 + 8, 3, 3):
        num_reads = 0

        with pytest.raises(DeadSourceError, match=r"`dataset\.on_dead_source` to 'skip'"):
            loader.load(utterances, plan)

        assert num_reads == expected

    # One of the batch comes back, and takes the place of the others.
    file.write_bytes(content)

    batch = loader.load(utterances, plan)
    assert batch.seqs.shape == (3, plan.num_samples)
    assert torch.equal(batch.seqs[0], batch.seqs[2])
