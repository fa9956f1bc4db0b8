"""Numbers gone wrong and sources that die in a run: what is configured comes of it, and a resumed run is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipe_runs import SMALL, assert_same, copy_as_killed

# The inner steps explode, and with half the step size again, until it is small enough.
EXPLODING = {
    "equilibrium.inner_lr": 4,
    "equilibrium.max_inner_loss_rise": 1.5,
    "equilibrium.on_divergence": "lower_inner_lr",
    "regime.checkpoint_every_n_steps": 2,
}


@pytest.mark.slow
def test_run_with_a_lowered_inner_lr_that_was_killed_ends_bitwise_where_it_would_have_ended(
    pretrain, tmp_path
):
    whole = pretrain("whole", EXPLODING)

    assert whole.returncode == 0, whole.output

    rows = whole.rows("train/ru-festvox")
    assert rows[0]["exploded"] > 0
    assert rows[0]["inner_lr"] < 4
    assert "adapted_loss" in rows[-1]

    copy_as_killed(tmp_path / "whole", tmp_path / "killed")

    again = pretrain("killed", EXPLODING)

    assert again.returncode == 0, again.output
    assert "Resuming from step 2" in again.output

    for kind in ("model", "optimizer", "data_reader"):
        assert_same(whole.state(kind, 6), again.state(kind, 6), kind)

    last = again.rows("train/ru-festvox")[-1]
    assert {k: last[k] for k in ("exploded", "inner_lr")} == {
        k: rows[-1][k] for k in ("exploded", "inner_lr")
    }


def test_run_that_stops_says_what_to_do_and_the_same_directory_takes_it(pretrain):
    settings = EXPLODING | {"equilibrium.on_divergence": "stop"}

    run = pretrain("out", settings)

    assert run.returncode == 3, run.output
    assert "`equilibrium.on_divergence` to 'lower_inner_lr' and run the same command" in run.output
    assert "Traceback" not in run.output

    assert pretrain("out", EXPLODING).returncode == 0


@pytest.fixture
def dying_corpus(make_corpus, tmp_path) -> Path:
    """A corpus one of whose sources has good headers only."""
    corpus = make_corpus(tmp_path / "corpus", num_train=8, num_valid=2, formats=("flac",))

    for file in (corpus / "de" / "audio").iterdir():
        content = file.read_bytes()
        file.write_bytes(content[:600] + bytes(len(content) - 600))

    return corpus


@pytest.mark.slow
def test_run_goes_on_without_a_dead_source_on_request(pretrain, dying_corpus):
    settings = {
        "dataset.corpus": dying_corpus,
        "dataset.sources": "null",
        "dataset.audio_seconds_per_update": 8,
        "validation.audio_seconds_per_batch": 4,
    }

    stopped = pretrain("out", settings)

    assert stopped.returncode == 2, stopped.output
    assert "de: no recording can be read any more" in stopped.output
    assert "set `dataset.on_dead_source` to 'skip'" in stopped.output

    run = pretrain("out", settings | {"dataset.on_dead_source": "skip"})

    assert run.returncode == 0, run.output
    assert run.output.count("Source de: no recording can be read any more") == 1

    assert [row["dead"] for row in run.rows("train/de")] == [2, 4, 6]
    assert "plain_loss" in run.rows("train/en")[-1]
    assert "dead" not in run.rows("train/en")[-1]

    (valid,) = run.rows("valid")
    assert valid["plain_loss"] == float("inf")
    assert valid["worst_source"] == "de"
    assert json.loads(json.dumps(run.rows("valid/en")[-1]["plain_loss"])) < 10

    alone = settings | {"dataset.on_dead_source": "skip", "dataset.sources": "[de]"}
    nothing_left = pretrain("alone", alone)

    assert nothing_left.returncode == 2, nothing_left.output
    assert "No recording of any source can be read any more" in nothing_left.output


def test_settings_out_of_range_are_refused(pretrain):
    for setting, words in (
        ({"equilibrium.max_inner_loss_rise": 1}, "`max_inner_loss_rise` must be greater than 1"),
        ({"equilibrium.on_divergence": "panic"}, "`equilibrium.on_divergence`"),
        ({"dataset.on_dead_source": "panic"}, "`dataset.on_dead_source`"),
    ):
        run = pretrain("out", setting, base=SMALL)

        assert run.returncode == 2, run.output
        assert words in run.output
