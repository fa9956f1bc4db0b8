"""What the table of sources says of a run before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_runs import SAMPLE
from spelled_audio import SpelledRecognizer
from spelled_corpus import make_spelled_corpus

from eqssl_speech.cli import main
from eqssl_speech.tasks.evaluate.references import load_evaluation_set
from eqssl_speech.tasks.finetune.batches import create_planner
from eqssl_speech.tasks.finetune.config import FinetuneConfig
from eqssl_speech.tasks.finetune.description import list_sources
from eqssl_speech.tasks.finetune.sources import check_transcribed_sources
from eqssl_speech.text.tokenizer import CtcTokenizer

NUM_STEPS = 60


@pytest.mark.parametrize("audio_s", [40.0, 120.0])
def test_expected_passes_are_those_of_the_run(tmp_path: Path, audio_s: float) -> None:
    names = ["ru-festvox", "es-drascula"]

    chosen = [argument for name in names for argument in ("--source", name)]

    assert main(["tokenizer", str(SAMPLE), str(tmp_path / "chars"), *chosen]) == 0

    config = FinetuneConfig()
    config.dataset.corpus = SAMPLE
    config.dataset.sources = names
    config.dataset.audio_seconds_per_update = audio_s
    config.regime.num_steps = NUM_STEPS

    sources = check_transcribed_sources(config, CtcTokenizer.load(tmp_path / "chars"), 1)
    planner = create_planner(config, [s.train for s in sources.sources])

    rows = list_sources(config, sources, planner, planner.num_episodes)

    num_samples = [0, 0]
    for _ in range(NUM_STEPS * planner.num_episodes):
        plan = next(planner)
        lengths = sources.sources[plan.stream].train.utterances.lengths
        num_samples[plan.stream] += sum(int(lengths[c.utterance]) for c in plan.batches[0].crops)

    # Passes differ by a batch, and the shortest has six. By the budget of audio it would be half as much again.
    for row, taken, source in zip(rows, num_samples, sources.sources):
        assert row.expected_passes == pytest.approx(taken / source.train.num_samples, rel=0.15)


def test_validation_measures_what_an_evaluation_of_the_split_does(tmp_path: Path) -> None:
    make_spelled_corpus(tmp_path / "c", split="valid")

    # The vocabulary has `м`, `и` and `р` only.
    for split in ("train", "valid"):
        file = tmp_path / "c" / "ru-read" / f"{split}.wrd"
        lines = file.read_text(encoding="utf-8").splitlines()
        lines[:2] = ["да", "!"]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    recognizer = SpelledRecognizer()
    config = FinetuneConfig()
    config.dataset.corpus = tmp_path / "c"
    config.dataset.sources = ["ru-read"]

    (source,) = check_transcribed_sources(config, recognizer.tokenizer, 1).sources
    references = load_evaluation_set(tmp_path / "c", "valid", ["ru-read"], recognizer).references  # type: ignore[arg-type]

    # What is too short for training is bad in both splits, and named.
    least = config.dataset.min_audio_s * config.dataset.sample_rate

    assert source.valid.texts == tuple(r.text for r in references if r.item.num_samples >= least)
    assert source.valid.texts[0] == "да"
    assert source.valid.labels[0] == ()

    # Nothing could be learnt of it.
    assert source.train.texts == source.valid.texts[1:]
