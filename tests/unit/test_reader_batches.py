"""A reader whose batches have another size goes on where the one before it had stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from episode_readers import FORMAT, close_readers, make_config, make_short_corpus, open_readers

from eqssl_speech.data.episodes import Episode
from eqssl_speech.data.loading import BatchLoader, UtteranceReader
from eqssl_speech.data.readers import BATCH_NUM_SAMPLES, EpisodeReader
from eqssl_speech.tasks.pretrain.config import PretrainConfig
from eqssl_speech.tasks.pretrain.sources import (
    CheckedSources,
    check_sources,
    create_planner,
    create_train_reader,
)


@pytest.fixture
def corpus(make_corpus: Callable[..., Path], tmp_path: Path) -> Iterator[Path]:
    yield make_short_corpus(make_corpus, tmp_path / "corpus")

    close_readers()


def open_reader(config: PretrainConfig, sources: CheckedSources) -> EpisodeReader[Episode]:
    planner, _, utterances = create_planner(config, sources.train, num_inner_steps=1)

    loader = BatchLoader(UtteranceReader(FORMAT), normalize=False)

    open_readers.append(create_train_reader(config, planner, utterances, loader))

    return open_readers[-1]


def test_reader_of_other_batches_goes_on_at_the_same_part_of_each_pass(corpus: Path) -> None:
    config = make_config(corpus)
    sources = check_sources(config.dataset)

    reader = open_reader(config, sources)
    list(islice(reader, 5))
    state = reader.state_dict()

    config.dataset.audio_seconds_per_update /= 2
    other = open_reader(config, sources)
    other.load_state_dict(state)
    converted = other.state_dict()

    assert converted["step_nr"] == 5
    assert converted[BATCH_NUM_SAMPLES] == state[BATCH_NUM_SAMPLES] // 2
    assert converted["positions"] != state["positions"]

    for (was_pass, was), (is_pass, now), num_was, num_now in zip(
        state["positions"], converted["positions"], state["batches_per_pass"], converted["batches_per_pass"]
    ):  # fmt: skip
        assert was_pass == is_pass
        assert now == round(was / num_was * num_now)

    # Versions that did not save the size could not have changed it.
    old = {key: state[key] for key in ("step_nr", "positions")}
    other.load_state_dict(old)

    assert other.state_dict()["positions"] == state["positions"]
