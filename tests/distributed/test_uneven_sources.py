"""Sources of very different sizes on two processes: each gets its share, and no process waits for one that has less."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipe_runs import run_pretrain

NUM_UTTERANCES = {"three": 3, "fifty": 50, "five-hundred": 500}

NUM_STEPS = 300

SETTINGS = {
    "dataset.sources": "null",
    "validation.audio_seconds_per_batch": 1,
    "regime.num_steps": NUM_STEPS,
    "regime.validate_every_n_steps": NUM_STEPS,
    "regime.checkpoint_every_n_steps": NUM_STEPS,
    "regime.publish_metrics_every_n_steps": 50,
}


def make_uneven_corpus(make_corpus: Any, directory: Path) -> Path:
    corpus = Path(
        make_corpus(
            directory,
            sources=list(NUM_UTTERANCES),
            num_train=max(NUM_UTTERANCES.values()),
            min_duration_s=1.0,
            max_duration_s=3.0,
            formats=("wav",),
            slices=True,
        )
    )

    for source, num_utterances in NUM_UTTERANCES.items():
        manifest = corpus / source / "train.tsv"
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text("".join(lines[: num_utterances + 1]))

    return corpus


@pytest.mark.slow
@pytest.mark.parametrize("sources_per_step", ["null", 2])
def test_passes_over_each_source_are_as_expected(make_corpus, tmp_path, torchrun, sources_per_step):
    corpus = make_uneven_corpus(make_corpus, tmp_path / "corpus")
    settings = SETTINGS | {
        "dataset.corpus": corpus,
        "dataset.sources_per_step": sources_per_step,
        "dataset.sampling_alpha": 0.5,
    }

    run = run_pretrain(tmp_path / "run", settings, launcher=torchrun)
    assert run.returncode == 0, run.output

    rows = {row["name"]: row for row in json.loads((run.directory / "sources.json").read_text())}

    # The last line has the totals.
    for source, num_utterances in NUM_UTTERANCES.items():
        file = run.directory / "metrics" / "train" / f"{source}.jsonl"
        heard_s = json.loads(file.read_text().splitlines()[-1])["audio_seconds"]

        row = rows[source]
        assert row["utterances"] == num_utterances
        assert heard_s / 3600 / row["hours"] == pytest.approx(row["expected_passes"], rel=0.05)
