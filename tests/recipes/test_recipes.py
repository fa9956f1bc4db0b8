"""Every configuration in ``recipes/`` runs for a few steps, and what users do with runs works on them."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from recipe_runs import (
    FEW_STEPS,
    ON_THE_SAMPLE,
    REPOSITORY,
    SAMPLE,
    SMALL,
    Run,
    assert_same,
    copy_as_killed,
    label_sample,
    require_time_left,
    run_finetune,
    run_pretrain,
)

from eqssl_speech.cli import main

# Of trainings; a study is no training.
CONFIGS = [f for f in sorted((REPOSITORY / "recipes").rglob("*.yaml")) if f.name != "study.yaml"]

FINETUNE_CONFIGS = [file for file in CONFIGS if file.name.startswith("finetune")]
PRETRAIN_CONFIGS = [file for file in CONFIGS if file not in FINETUNE_CONFIGS]


def test_there_are_configurations():
    assert PRETRAIN_CONFIGS
    assert FINETUNE_CONFIGS


def name_config(file):
    return str(file.relative_to(REPOSITORY / "recipes"))


@pytest.mark.parametrize("file", FINETUNE_CONFIGS, ids=name_config)
def test_finetuning_configuration_runs(tmp_path, file):
    sources = ["--source", "ru-festvox", "--source", "es-drascula"]

    assert main(["tokenizer", str(SAMPLE), str(tmp_path / "tokenizer"), *sources]) == 0

    settings = {k: v for k, v in FEW_STEPS.items() if "warmup" not in k and "batches" not in k}
    settings |= ON_THE_SAMPLE | {"validation.max_num_utterances": 3}

    run = run_finetune(
        tmp_path / "out", tmp_path / "tokenizer", settings, config_file=file, base={}
    )

    assert run.returncode == 0, run.output
    assert run.rows("train")[-1]["ctc_loss"] > 0
    assert run.rows("valid")[-1]["macro_cer"] > 0


@pytest.mark.parametrize("file", PRETRAIN_CONFIGS, ids=name_config)
def test_configuration_runs(request, pretrain, file):
    settings = FEW_STEPS | ON_THE_SAMPLE | {"dataset.audio_seconds_per_update": 24}

    if "family: hubert" in file.read_text():
        # Not every configuration says where they are.
        settings["dataset.labels"] = request.getfixturevalue("labels")

    run = pretrain("out", settings, config_file=file, base={})

    assert run.returncode == 0, run.output

    row = run.rows("train")[-1]

    for name in ("plain_loss", "adapted_loss", "grad_norm", "audio_seconds_per_update"):
        assert torch.isfinite(torch.tensor(row[name])), name


MODES = [
    {"dataset.regime": "mixed", "equilibrium": "null"},
    {"dataset.regime": "mixed", "equilibrium": "null", "dataset.sampling_alpha": 0.5},
    {"dataset.sources_per_step": 1, "dataset.sampling_alpha": 0.5},
    {"dataset.source_weighting": "proportional"},
    {"dataset.rehearsal_sources": "[es-drascula]", "dataset.sources_per_step": 2},
    {
        "dataset.rehearsal_sources": "[es-drascula]",
        "dataset.regime": "mixed",
        "equilibrium": "null",
    },
    {"equilibrium.order": "exact"},
    {"equilibrium.outer_weights": "[0.25, 0.75]"},
    {"equilibrium.precondition": "true", "equilibrium.normalize_inner_grad": "true"},
    {"equilibrium.start_after_num_steps": 2, "equilibrium.num_inner_warmup_steps": 2},
    {"trainer.mixed_precision.mode": "auto", "trainer.mixed_precision.dtype": "bfloat16"},
    {
        "equilibrium": "null",
        "optimizer": "{name: equilibrium, config: {num_inner_steps: 1, inner_lr: 0.03}}",
    },
]

# Those in which something else is done with a batch or with the model.
LABELLED_MODES = [
    pytest.param("hubert", MODES[0], marks=pytest.mark.slow),
    pytest.param("hubert", MODES[3], marks=pytest.mark.slow),
    ("hubert", MODES[6]),
    pytest.param("hubert", MODES[10], marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("family", "overrides"),
    [*(("wav2vec2", mode) for mode in MODES), *LABELLED_MODES],
    indirect=["family"],
    ids=lambda o: o if isinstance(o, str) else ",".join(o),
)
def test_mode_runs(pretrain, family, overrides):
    if "optimizer" in overrides:
        overrides = {f"set:{k}" if k == "optimizer" else k: v for k, v in overrides.items()}

        run = pretrain(
            "out", family | overrides, base={k: v for k, v in SMALL.items() if "optimizer" not in k}
        )
    else:
        run = pretrain("out", family | overrides)

    assert run.returncode == 0, run.output
    assert run.rows("valid")[-1]["plain_loss"] > 0


@pytest.mark.parametrize("mode", MODES[4:6], ids=["per source", "mixed"])
def test_rehearsed_sources_get_their_share(pretrain, mode):
    run = pretrain("out", mode | {"dataset.rehearsal_share": 0.125, "dataset.sampling_alpha": 0.0})

    rows = json.loads((run.directory / "sources.json").read_text())

    assert {row["name"]: row["share"] for row in rows} == pytest.approx(
        {"ru-festvox": 0.875, "es-drascula": 0.125}
    )


def test_two_sets_of_labels_are_predicted_at_once(pretrain, labels, tmp_path):
    others = label_sample(tmp_path / "others", "--clusters", "5")
    overrides = {
        "model.family": "hubert",
        "dataset.labels": f"[{labels}, {others}]",
        "loss.unmasked_weight": 0.5,
        "trainer.mixed_precision.mode": "auto",
        "trainer.mixed_precision.dtype": "bfloat16",
    }

    run = pretrain("out", overrides)

    assert run.returncode == 0, run.output

    model, row = run.state("model", 6), run.rows("valid")[-1]

    # Eight codes and five, with a projection for each set; losses are sums over both.
    assert model["code_embeddings"].shape == (8 + 5, 24)
    assert model["final_proj.weight"].shape == (2 * 24, 48)
    assert 3.0 < row["chance"] < 3.0 + math.log2(5)
    assert 4.0 < row["plain_loss"] < 9.0


SIX_STEPS = {"regime.checkpoint_every_n_steps": 2, "equilibrium.inner_lr": 0.1}


@pytest.fixture(scope="module")
def whole(family, tmp_path_factory) -> Run:
    """A run that nothing has disturbed."""
    run = run_pretrain(tmp_path_factory.mktemp("whole") / "out", family | SIX_STEPS, anew=True)

    assert run.returncode == 0, run.output

    return run


def test_what_trains_stays_where_it_was(whole, family):
    """Golden losses in bits; a commit that moves them says why. The tolerance is for other processors' rounding."""
    losses = [row["plain_loss"] for row in whole.rows("train")]

    assert losses == pytest.approx(GOLDEN_PLAIN_LOSSES[family["model.family"]], abs=2e-3)


GOLDEN_PLAIN_LOSSES = {
    "wav2vec2": [6.33590, 6.10454, 5.89579],
    "hubert": [3.46580, 3.01642, 3.02140],
}


def test_run_that_was_killed_ends_bitwise_where_it_would_have_ended(
    pretrain, tmp_path, family, whole
):
    copy_as_killed(whole.directory, tmp_path / "killed")

    again = pretrain("killed", family | SIX_STEPS, anew=True)

    assert again.returncode == 0, again.output
    assert "Resuming from step 2" in again.output

    for kind in ("model", "optimizer", "data_reader"):
        assert_same(whole.state(kind, 6), again.state(kind, 6), kind)

    assert whole.rows("train")[-1]["plain_loss"] == again.rows("train")[-1]["plain_loss"]
    assert whole.rows("valid")[-1]["plain_loss"] == again.rows("valid")[-1]["plain_loss"]

    require_time_left(whole, again)


@pytest.mark.parametrize(
    "family",
    ["wav2vec2", pytest.param("hubert", marks=pytest.mark.slow)],
    indirect=True,
)
def test_checkpoint_of_one_regime_resumes_in_the_other(pretrain, tmp_path, family):
    conventional = family | {"equilibrium": "null", "regime.checkpoint_every_n_steps": 2}
    adapting = family | {"regime.checkpoint_every_n_steps": 2}

    for first, second in ((conventional, adapting), (adapting, conventional)):
        name = "from_adapting" if first is adapting else "from_conventional"

        start = pretrain(f"{name}_start", first)

        assert start.returncode == 0, start.output

        shutil.copytree(start.directory / "checkpoints", tmp_path / name / "checkpoints")
        shutil.rmtree(tmp_path / name / "checkpoints" / "step_6")

        run = pretrain(name, second)

        assert run.returncode == 0, run.output
        assert "Resuming from step 4" in run.output


def test_dumped_configuration_gives_the_same_configuration(pretrain, tmp_path):
    config = PRETRAIN_CONFIGS[0]

    first = pretrain("x", {}, config_file=config, base={}, extra=["--dump-config"])
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(yaml_of(first.output))

    second = pretrain("x", {}, config_file=dumped, base={}, extra=["--dump-config"])

    assert first.returncode == second.returncode == 0
    assert yaml_of(first.output) == yaml_of(second.output)
    assert "num_inner_steps" in yaml_of(first.output)


def yaml_of(output: str) -> str:
    """Leave out what the host logs beside the configuration."""
    return output[output.index("model:\n") :].split("\n20")[0]
