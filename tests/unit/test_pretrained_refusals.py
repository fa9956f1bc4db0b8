"""Encoders that do not fit the model are refused, in one sentence that says why, and nothing of them is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2.asr import (
    Wav2Vec2AsrModel,
)
from random_encoders import make_model, make_tensors
from torch import Tensor

from eqssl_speech.error import InputError
from eqssl_speech.models.wav2vec2.asr import micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.models.wav2vec2.pretrained import (
    PretrainedEncoder,
    load_encoder,
)


def assert_untouched(model: Wav2Vec2AsrModel) -> None:
    for name, tensor in make_model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def refuse(tensors: dict[str, Tensor], error: str, model: Wav2Vec2AsrModel | None = None) -> None:
    model = model or make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(InputError, match=error):
        load_encoder(model, PretrainedEncoder("a.pt", tensors, None))

    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was loaded all the same"


@pytest.mark.parametrize(
    ("overrides", "tensor", "shapes", "key"),
    [
        (
            {"model_dim": 96, "ffn_inner_dim": 384},
            "encoder.layers.0.self_attn.q_proj.weight",
            r"\(96, 96\), but \(48, 48\)",
            "model_dim",
        ),
        (
            {"ffn_inner_dim": 100},
            "encoder.layers.0.ffn.inner_proj.weight",
            r"\(100, 48\), but \(192, 48\)",
            "ffn_inner_dim",
        ),
        (
            {"pos_conv_kernel_size": 64},
            "encoder_frontend.pos_encoder.conv.weight_g",
            r"\(1, 1, 64\), but \(1, 1, 128\)",
            "pos_conv_kernel_size",
        ),
        (
            {"feature_extractor_layer_descs": [(32, 10, 5)] + [(32, 3, 2)] * 6},
            "encoder_frontend.feature_extractor.layers.5.conv.weight",
            r"\(32, 32, 3\), but \(32, 32, 2\)",
            "feature_extractor_layer_descs",
        ),
    ],
)
def test_another_shape_is_refused_with_the_key_to_set(
    overrides: dict[str, object], tensor: str, shapes: str, key: str
) -> None:
    config = micro_config()
    config.encoder_config = replace(config.encoder_config, **overrides)

    refuse(
        make_tensors(config),
        rf"a.pt: the tensor `{tensor}` has the shape {shapes} in the model( and [0-9]+ more)?; "
        rf"set `model.arch` \(or `model.config_overrides.encoder_config.{key}`\)",
    )


def test_a_checkpoint_that_lacks_a_layer_is_refused() -> None:
    tensors = {n: t for n, t in make_tensors().items() if not n.startswith("encoder.layers.1.")}

    refuse(
        tensors, r"has no tensor `encoder\.layers\.1\.[a-z_.]*` and 15 more, which the model has"
    )


def test_a_checkpoint_of_another_norm_order_is_refused() -> None:
    model = make_model(norm_order=TransformerNormOrder.PRE)

    refuse(
        make_tensors(), r"has no tensor `encoder\.layer_norm\.weight` and 1 more, which the", model
    )


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("num_encoder_attn_heads", 4, True),  # which no shape shows
        (
            "feature_extractor_layer_descs",
            [(32, 10, 4)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2,
            True,
        ),
        ("num_encoder_layers", 3, True),
        ("dropout_p", 0.3, False),
        ("layer_drop_p", 0.3, False),
        ("feature_grad_scale", 0.1, False),
    ],
)
def test_a_configuration_that_computes_something_else_is_refused(name, value, refused) -> None:
    encoder = PretrainedEncoder("a.pt", make_tensors(), micro_config().encoder_config)
    config = replace(micro_asr_config().encoder_config, **{name: value})
    model = make_model()

    if not refused:
        load_encoder(model, encoder, config)
        return

    with pytest.raises(InputError, match=rf"encoder_config\.{name}` is .* has .*; leave it out"):
        load_encoder(model, encoder, config)

    assert_untouched(model)


def test_a_checkpoint_without_an_encoder_is_refused() -> None:
    tensors = {"decoder.embed.weight": torch.ones(2), "layers.0.weight": torch.ones(2)}

    refuse(
        tensors,
        r"holds no tensor of a wav2vec 2.0 or HuBERT encoder \(the first of its 2 is `decoder.embed",
    )


def test_two_encoders_in_one_file_are_refused() -> None:
    tensors = make_tensors()

    refuse(
        {f"{who}.{n}": t for who in ("student", "teacher") for n, t in tensors.items()},
        "holds several encoders, under `student.` and `teacher.`",
    )


def test_numbers_that_are_not_finite_are_refused() -> None:
    tensors = make_tensors()
    tensors["encoder.layers.1.ffn.inner_proj.bias"][3] = torch.nan

    refuse(tensors, r"the tensor `encoder.layers.1.ffn.inner_proj.bias` holds numbers that are not")
