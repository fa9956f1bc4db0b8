"""Pre-training goes on from a model of whatever origin, and publishes its own as it goes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from recipe_runs import (
    FEW_STEPS,
    ON_THE_SAMPLE,
    REPOSITORY,
    SMALL,
    assert_same,
    label_sample,
    run_pretrain,
)
from transformers import AutoFeatureExtractor, AutoModel, HubertModel, Wav2Vec2ForPreTraining
from transformers import HubertConfig as TransformersHubertConfig
from transformers import Wav2Vec2Config as TransformersConfig

from eqssl_speech.models.opening import open_checkpoint

SMALL_TRANSFORMERS: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "layerdrop": 0.0,
}

# Two steps that move nothing, so that the checkpoint shows what the model began as.
STANDING_STILL = {
    "optimizer.config.lr": 0.0,
    "optimizer.config.weight_decay": 0.0,
    "regime.num_steps": 2,
    "regime.validate_every_n_steps": 2,
    "regime.checkpoint_every_n_steps": 2,
    "lr_scheduler.config.num_warmup_steps": 1,
}


def drop_count(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "quantizer.num_updates"}


@pytest.mark.parametrize("origin", ["transformers", "run", "file"])
def test_a_run_begins_with_the_tensors_of_the_checkpoint(tmp_path, origin):
    if origin == "transformers":
        pretrained = tmp_path / "hf"
        torch.manual_seed(1)
        Wav2Vec2ForPreTraining(TransformersConfig(**SMALL_TRANSFORMERS)).save_pretrained(pretrained)
    else:
        first = run_pretrain(tmp_path / "first", SMALL)
        assert first.returncode == 0, first.output
        pretrained = tmp_path / "first"

    if origin == "file":
        torch.save(first.state("model", 6), tmp_path / "a.pt")
        pretrained = tmp_path / "a.pt"

    run = run_pretrain(
        tmp_path / "out", SMALL | STANDING_STILL | {"pretrained": pretrained, "common.seed": 7}
    )

    assert run.returncode == 0, run.output
    assert f"Encoder of {pretrained}" in run.output
    assert re.search(r"newly made +0 tensors +0 parameters", run.output)

    model = run.state("model", 2)
    assert_same(drop_count(model), drop_count(open_checkpoint(pretrained).tensors), "model")
    # Optimizer and schedule start anew, and with them the temperature of the quantizer.
    assert model["quantizer.num_updates"] == 2

    assert json.loads((run.directory / "origin.json").read_text()) == {
        "name": pretrained.name,
        "path": str(pretrained),
        "step": 6 if origin == "run" else None,
    }


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_the_presets_go_on_from_a_directory_of_transformers(tmp_path, family):
    torch.manual_seed(1)
    if family == "hubert":
        theirs = HubertModel(TransformersHubertConfig(**SMALL_TRANSFORMERS))
        labels = {"dataset.labels": label_sample(tmp_path / "labels")}
    else:
        theirs = Wav2Vec2ForPreTraining(TransformersConfig(**SMALL_TRANSFORMERS))
        labels = {}
    theirs.save_pretrained(tmp_path / "hf")

    # The first two steps are conventional, the others not.
    settings = FEW_STEPS | ON_THE_SAMPLE | labels
    settings |= {"pretrained": tmp_path / "hf", "dataset.audio_seconds_per_update": 32}
    settings |= {"equilibrium.start_after_num_steps": 2, "equilibrium.num_inner_warmup_steps": 1}

    run = run_pretrain(
        tmp_path / "out",
        settings,
        config_file=REPOSITORY / "recipes" / "continued" / f"{family}.yaml",
        base={},
    )

    assert run.returncode == 0, run.output
    # The first validation is that of the model as it came.
    assert [row["Step"] for row in run.rows("valid")] == [0, 4]
    assert run.rows("train")[-1]["inner_lr"] > 0.0
    assert run.state("model", 4)["encoder.layers.1.ffn.inner_proj.weight"].shape == (64, 48)


def test_hubert_goes_on_from_an_encoder_alone(tmp_path):
    torch.manual_seed(1)
    theirs = HubertModel(TransformersHubertConfig(**SMALL_TRANSFORMERS))
    theirs.save_pretrained(tmp_path / "hf")
    labels = label_sample(tmp_path / "labels")
    settings = {"model.family": "hubert", "dataset.labels": labels, "pretrained": tmp_path / "hf"}

    run = run_pretrain(tmp_path / "out", SMALL | settings)

    assert run.returncode == 0, run.output
    # The head is new, and has as many codes as there are labels.
    assert run.state("model", 6)["code_embeddings"].shape[0] == 8
    assert "code_embeddings" in run.output.split("newly made")[1].splitlines()[0]


def test_a_run_publishes_its_model_as_it_goes(tmp_path):
    run = run_pretrain(tmp_path / "out", SMALL | {"regime.export_hugging_face": "true"})

    assert run.returncode == 0, run.output

    directory = tmp_path / "out" / "checkpoints" / "step_6" / "hg"
    exported = AutoModel.from_pretrained(directory)
    weight = run.state("model", 6)["encoder.layers.1.ffn.inner_proj.weight"]

    assert torch.equal(exported.encoder.layers[1].feed_forward.intermediate_dense.weight, weight)
    assert not AutoFeatureExtractor.from_pretrained(directory).do_normalize
    assert "largest differences" in directory.with_suffix(".stdout").read_text()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"pretrained": "runs/none"}, r"runs/none: there is no such checkpoint; correct the path"),
        ({"pretrained": "wav2vec2_bse"}, r"close ones: wav2vec2_base"),
        (
            {"pretrained": "PATH", "model.config_overrides.encoder_config.model_dim": 64},
            r"encoder_config\.model_dim` is 64, but the encoder of .* has 48; leave it out",
        ),
        ({"pretrained": "PATH", "model.name": "wav2vec2_base"}, r"leave\s+those out"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused_before_anything_is_written(
    tmp_path, settings, error
):
    Wav2Vec2ForPreTraining(TransformersConfig(**SMALL_TRANSFORMERS)).save_pretrained(tmp_path / "a")
    settings = {k: tmp_path / "a" if v == "PATH" else v for k, v in settings.items()}

    run = run_pretrain(tmp_path / "out", SMALL | settings)

    assert run.returncode == 2, run.output
    assert re.search(error, run.output)
    assert not (tmp_path / "out").exists()
