"""The reader of the validation: the same after each reset, every recording once, shared out over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

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
from eqssl_speech.data.loading import BatchLoader, UtteranceReader
from eqssl_speech.data.readers import ValidationReader
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.sources import (
    CheckedSources,
    check_sources,
)
from eqssl_speech.tasks.pretrain.valid_readers import create_valid_reader


@pytest.fixture(autouse=True)
def end_of_reading() -> Iterator[None]:
    yield

    close_readers()


@pytest.fixture
def corpus(make_corpus: Callable[..., Path], tmp_path: Path) -> Path:
    return make_short_corpus(make_corpus, tmp_path / "corpus")


def make_valid_reader(
    config: PretrainConfig, sources: CheckedSources, rank: int = 0, num_ranks: int = 1
) -> ValidationReader:
    loader = BatchLoader(UtteranceReader(FORMAT), normalize=False)

    reader = create_valid_reader(
        config, sources.train[0], sources.valid[0], loader, rank=rank, num_ranks=num_ranks
    )

    open_readers.append(reader)

    return reader


def test_validation_reads_the_same_after_each_reset(corpus: Path) -> None:
    config = make_config(corpus)
    reader = make_valid_reader(config, check_sources(config.dataset))

    first = list(reader)

    assert len(first) > 1
    assert all(len(episodes) == 1 for episodes in first)

    for _ in range(2):
        reader.reset()

        assert_same(list(reader), first)

    # In the middle too.
    reader.reset()
    next(reader)
    reader.reset()

    assert_same(list(reader), first)


def test_validation_adapts_on_training_batches_and_covers_the_validation_split(
    corpus: Path,
) -> None:
    config = make_config(corpus)
    sources = check_sources(config.dataset)

    episodes = [episode for [episode] in make_valid_reader(config, sources)]

    # Two batches to adapt on, then one to evaluate.
    assert {len(e.batches) for e in episodes} == {3}
    assert {e.source_name for e in episodes} == {"en"}

    starts = torch.cat([e.batches[2].seqs[:, :1600] for e in episodes])
    expected = torch.stack(
        [
            torch.from_numpy(read_audio(m.locate(m.entries[i]), m.entries[i], FORMAT)[:1600])
            for m, i in sources.valid[0].items
        ]
    )

    assert len(starts) == 5
    assert {tuple(row.tolist()) for row in starts} == {tuple(row.tolist()) for row in expected}


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_share_out_the_validation_of_one(corpus: Path, num_ranks: int) -> None:
    config = make_config(corpus)
    sources = check_sources(config.dataset)

    alone = list(make_valid_reader(config, sources))

    lengths = set()

    for rank in range(num_ranks):
        mine = list(make_valid_reader(config, sources, rank, num_ranks))

        assert_same([step for step in mine if step], alone[rank::num_ranks])

        lengths.add(len(mine))

    # Or the host's collectives between two steps would not pair up.
    assert len(lengths) == 1


def test_validation_without_adaptation_has_only_the_batch_to_evaluate(corpus: Path) -> None:
    config = make_config(corpus)
    config.validation.num_adaptation_steps = 0

    reader = make_valid_reader(config, check_sources(config.dataset))

    assert all(len(episode.batches) == 1 for [episode] in reader)
