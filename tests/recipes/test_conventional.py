"""Invariant 1 of the method: K = 0, or the section switched off, is the conventional run, to the last bit."""

from __future__ import annotations

import pytest
from recipe_runs import Run, assert_same, run_pretrain

NUM_STEPS = 20

# Elsewhere the second family is left to the slow tests.
each_family = pytest.mark.parametrize(
    "family", ["wav2vec2", pytest.param("hubert", marks=pytest.mark.slow)], indirect=True
)

TWENTY_STEPS = {
    "regime.num_steps": NUM_STEPS,
    "regime.validate_every_n_steps": NUM_STEPS,
    "regime.checkpoint_every_n_steps": NUM_STEPS,
    "model.config_overrides.encoder_config.dropout_p": 0.1,
    "model.config_overrides.encoder_config.layer_drop_p": 0.1,
}


def test_no_inner_step_and_no_section_are_bitwise_the_same_run(pretrain, family):
    off = pretrain("off", family | TWENTY_STEPS | {"equilibrium": "null"})
    settings = family | TWENTY_STEPS | {"equilibrium.num_inner_steps": 0}
    zero = pretrain("zero", settings, anew=True)

    assert off.returncode == 0, off.output
    assert zero.returncode == 0, zero.output

    for kind in ("model", "optimizer", "data_reader"):
        assert_same(off.state(kind, NUM_STEPS), zero.state(kind, NUM_STEPS), kind)

    off_trainer, zero_trainer = off.state("trainer", NUM_STEPS), zero.state("trainer", NUM_STEPS)

    assert_same(off_trainer["_rng_bag"], zero_trainer["_rng_bag"], "random state")
    assert_same(off_trainer["_lr_scheduler"], zero_trainer["_lr_scheduler"], "learning rate")

    # Losses and the norms of the outer gradients, every second step.
    names = ("Step", "plain_loss", "adapted_loss", "accuracy", "grad_norm", "source_grad_cosine")

    for theirs, ours in zip(off.rows("train"), zero.rows("train"), strict=True):
        assert [theirs[n] for n in names] == [ours[n] for n in names]

    assert off.rows("valid")[-1]["plain_loss"] == zero.rows("valid")[-1]["plain_loss"]


@each_family
def test_an_inner_step_changes_the_run(pretrain, family):
    """Guards the test above against comparing runs that nothing can tell apart."""
    zero = pretrain("zero", family | {"equilibrium.num_inner_steps": 0})
    one = pretrain("one", family | {"equilibrium.num_inner_steps": 1, "equilibrium.inner_lr": 0.1})

    assert zero.rows("train")[-1]["plain_loss"] != one.rows("train")[-1]["plain_loss"]


@pytest.fixture(scope="module")
def three(family, tmp_path_factory) -> Run:
    """A run with three inner steps."""
    settings = {"equilibrium.num_inner_steps": 3, "dataset.audio_seconds_per_update": 24}

    run = run_pretrain(tmp_path_factory.mktemp("three") / "out", family | settings)

    assert run.returncode == 0, run.output

    return run


# HuBERT has none.
@pytest.mark.parametrize("family", ["wav2vec2"], indirect=True)
def test_counters_follow_outer_steps(three):
    model = three.state("model", 6)

    assert model["quantizer.num_updates"].item() == 6


@each_family
def test_checkpoints_of_both_kinds_have_the_same_keys(pretrain, family, three):
    off = pretrain("off", family | {"equilibrium": "null"})

    for kind in ("model", "optimizer"):
        theirs, ours = off.state(kind, 6), three.state(kind, 6)

        assert theirs.keys() == ours.keys()

        if kind == "optimizer":
            assert theirs["state"].keys() == ours["state"].keys()
            assert theirs["param_groups"][0].keys() == ours["param_groups"][0].keys()
