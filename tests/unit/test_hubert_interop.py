"""HuBERTs of fairseq, Hugging Face and torchaudio become ours, tensor by tensor, or are refused in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
from fairseq2.models.transformer import TransformerNormOrder
from torch import Tensor
from transformers import HubertConfig as HuggingFaceConfig
from transformers import HubertForCTC
from transformers import HubertModel as HuggingFaceModel

from eqssl_speech.error import InputError
from eqssl_speech.models.hubert import (
    HubertConfig,
    convert_hubert_state_dict,
    create_hubert_model,
)
from eqssl_speech.models.hubert.config import base_config, large_config

Tensors = dict[str, Tensor]

NUM_LAYERS, MODEL_DIM, FEATURE_DIM, FINAL_DIM = 2, 16, 8, 6
NUM_CODES = [5, 3]

HEAD = ("masker.temporal_mask_embed", "final_proj.weight", "final_proj.bias", "code_embeddings")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        yield


def make_config(kind: str = "base", **overrides: object) -> HubertConfig:
    config = base_config() if kind == "base" else large_config()

    encoder_config = replace(
        config.encoder_config,
        model_dim=MODEL_DIM,
        feature_dim=FEATURE_DIM,
        feature_extractor_layer_descs=[(FEATURE_DIM, 10, 5), (FEATURE_DIM, 3, 2)],
        pos_conv_kernel_size=4,
        num_pos_conv_groups=2,
        num_encoder_layers=NUM_LAYERS,
        num_encoder_attn_heads=2,
        ffn_inner_dim=24,
    )

    sizes = {"final_dim": FINAL_DIM, "num_codes": NUM_CODES}

    return replace(config, encoder_config=encoder_config, **sizes, **overrides)


def make_fairseq(kind: str = "base", *, num_special: int = 0, tied: bool = False) -> Tensors:
    """Make what fairseq would save, name by name, all at random."""
    projected_dim = FINAL_DIM * (1 if tied else len(NUM_CODES))

    shapes: dict[str, tuple[int, ...]] = {
        "mask_emb": (MODEL_DIM,),
        "label_embs_concat": (sum(NUM_CODES) + num_special * len(NUM_CODES), FINAL_DIM),
        "layer_norm.weight": (FEATURE_DIM,),
        "layer_norm.bias": (FEATURE_DIM,),
        "post_extract_proj.weight": (MODEL_DIM, FEATURE_DIM),
        "post_extract_proj.bias": (MODEL_DIM,),
        "feature_extractor.conv_layers.0.0.weight": (FEATURE_DIM, 1, 10),
        "feature_extractor.conv_layers.1.0.weight": (FEATURE_DIM, FEATURE_DIM, 3),
        "encoder.pos_conv.0.bias": (MODEL_DIM,),
        "encoder.pos_conv.0.weight_g": (1, 1, 4),
        "encoder.pos_conv.0.weight_v": (MODEL_DIM, MODEL_DIM // 2, 4),
        "encoder.layer_norm.weight": (MODEL_DIM,),
        "encoder.layer_norm.bias": (MODEL_DIM,),
        "final_proj.weight": (projected_dim, MODEL_DIM),
        "final_proj.bias": (projected_dim,),
    }

    for layer, inner in ((0, "2"),) if kind == "base" else ((0, "2.1"), (1, "2.1")):
        for end in ("weight", "bias"):
            shapes[f"feature_extractor.conv_layers.{layer}.{inner}.{end}"] = (FEATURE_DIM,)

    for layer in range(NUM_LAYERS):
        start = f"encoder.layers.{layer}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes[f"{start}.self_attn.{name}.weight"] = (MODEL_DIM, MODEL_DIM)
            shapes[f"{start}.self_attn.{name}.bias"] = (MODEL_DIM,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{start}.{name}.weight"] = (MODEL_DIM,)
            shapes[f"{start}.{name}.bias"] = (MODEL_DIM,)
        shapes |= {
            f"{start}.fc1.weight": (24, MODEL_DIM),
            f"{start}.fc1.bias": (24,),
            f"{start}.fc2.weight": (MODEL_DIM, 24),
            f"{start}.fc2.bias": (MODEL_DIM,),
        }

    return {name: torch.randn(shape) for name, shape in shapes.items()}


def make_hugging_face(kind: str = "base", **overrides: object) -> HuggingFaceConfig:
    settings: dict[str, object] = {
        "hidden_size": MODEL_DIM,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (FEATURE_DIM, FEATURE_DIM),
        "conv_stride": (5, 2),
        "conv_kernel": (10, 3),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "group" if kind == "base" else "layer",
        "do_stable_layer_norm": kind != "base",
        "vocab_size": 11,
    }

    return HuggingFaceConfig(**(settings | overrides))


def randomize(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: torch.randn(tensor.shape) for name, tensor in tensors.items()}


def convert(tensors: Mapping[str, object], config: HubertConfig) -> Tensors:
    """Convert and load, which wants every tensor and no other."""
    converted = convert_hubert_state_dict(dict(tensors), config)
    create_hubert_model(config).load_state_dict(converted)

    return converted


# Theirs, ours; one of each kind.
FAIRSEQ_NAMES = {
    "mask_emb": "masker.temporal_mask_embed",
    "label_embs_concat": "code_embeddings",
    "final_proj.weight": "final_proj.weight",
    "layer_norm.bias": "encoder_frontend.post_extract_layer_norm.bias",
    "post_extract_proj.weight": "encoder_frontend.model_dim_proj.weight",
    "feature_extractor.conv_layers.1.0.weight": (
        "encoder_frontend.feature_extractor.layers.1.conv.weight"
    ),
    "encoder.pos_conv.0.weight_g": "encoder_frontend.pos_encoder.conv.weight_g",
    "encoder.pos_conv.0.weight_v": "encoder_frontend.pos_encoder.conv.weight_v",
    "encoder.layers.1.self_attn.k_proj.weight": "encoder.layers.1.self_attn.k_proj.weight",
    "encoder.layers.1.self_attn.out_proj.bias": "encoder.layers.1.self_attn.output_proj.bias",
    "encoder.layers.0.self_attn_layer_norm.bias": "encoder.layers.0.self_attn_layer_norm.bias",
    "encoder.layers.0.fc1.weight": "encoder.layers.0.ffn.inner_proj.weight",
    "encoder.layers.1.fc2.bias": "encoder.layers.1.ffn.output_proj.bias",
    "encoder.layers.1.final_layer_norm.weight": "encoder.layers.1.ffn_layer_norm.weight",
}


@pytest.mark.parametrize("kind", ["base", "large"])
@pytest.mark.parametrize("nested", [False, True])
def test_fairseqs_names_become_ours(kind: str, nested: bool) -> None:
    theirs = make_fairseq(kind)
    before = dict(theirs)
    config = make_config(kind)

    converted = convert({"model": theirs, "args": None} if nested else theirs, config)

    assert theirs == before, "the argument was changed"
    assert len(converted) == len(theirs)

    expected = dict(FAIRSEQ_NAMES)
    extractor = "encoder_frontend.feature_extractor.layers"

    if kind == "base":
        expected["feature_extractor.conv_layers.0.2.bias"] = f"{extractor}.0.group_norm.bias"
        expected["encoder.layer_norm.weight"] = "encoder_frontend.layer_norm.weight"
    else:
        expected["feature_extractor.conv_layers.0.2.1.bias"] = f"{extractor}.0.layer_norm.bias"
        expected["feature_extractor.conv_layers.1.2.1.weight"] = f"{extractor}.1.layer_norm.weight"
        expected["encoder.layer_norm.weight"] = "encoder.layer_norm.weight"

    for name, ours in expected.items():
        assert torch.equal(converted[ours], theirs[name]), name


def test_fairseqs_special_symbols_are_left_out() -> None:
    theirs = make_fairseq(num_special=4)

    converted = convert(theirs, make_config())

    rows = theirs["label_embs_concat"]
    assert torch.equal(converted["code_embeddings"], torch.cat([rows[4:9], rows[13:16]]))


def test_a_shared_projection_of_fairseq_fits_a_shared_one_only() -> None:
    theirs = make_fairseq(tied=True)

    converted = convert(theirs, make_config(shared_final_proj=True))
    assert torch.equal(converted["final_proj.weight"], theirs["final_proj.weight"])

    with pytest.raises(InputError, match=r"`final_proj.weight` in the shape \(6, 16\), but the mo"):
        convert(theirs, make_config())


def test_a_fine_tuned_model_of_fairseq_is_taken_without_its_output_layer() -> None:
    theirs = {f"w2v_encoder.w2v_model.{name}": x for name, x in make_fairseq().items()}
    del theirs["w2v_encoder.w2v_model.label_embs_concat"]
    theirs["w2v_encoder.proj.weight"] = torch.randn(11, MODEL_DIM)

    converted = convert(theirs, make_config(init_missing_head=True))

    assert torch.equal(
        converted["masker.temporal_mask_embed"], theirs["w2v_encoder.w2v_model.mask_emb"]
    )


def to_old_weight_norm(tensors: Tensors) -> Tensors:
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        tensors = {n.replace(f"parametrizations.weight.{new}", old): x for n, x in tensors.items()}

    return tensors


@pytest.mark.parametrize("kind", ["base", "large"])
@pytest.mark.parametrize("weight_norm", [dict, to_old_weight_norm])
@pytest.mark.parametrize("for_ctc", [False, True])
def test_hugging_faces_names_become_ours(
    kind: str, weight_norm: Callable[[Tensors], Tensors], for_ctc: bool
) -> None:
    model = (HubertForCTC if for_ctc else HuggingFaceModel)(make_hugging_face(kind))
    theirs = weight_norm(randomize(model.state_dict()))
    prefix = "hubert." if for_ctc else ""

    norms = sorted(name for name in theirs if re.search(r"weight_[gv]$|original[01]$", name))
    assert len(norms) == 2
    assert norms[0].endswith("weight_g") == (weight_norm is to_old_weight_norm)

    converted = convert(theirs, make_config(kind, init_missing_head=True))

    extractor = "encoder_frontend.feature_extractor.layers"
    expected = {
        "masked_spec_embed": "masker.temporal_mask_embed",
        "feature_extractor.conv_layers.1.conv.weight": f"{extractor}.1.conv.weight",
        "feature_extractor.conv_layers.0.layer_norm.bias": (
            f"{extractor}.0.{'group' if kind == 'base' else 'layer'}_norm.bias"
        ),
        "feature_projection.layer_norm.weight": "encoder_frontend.post_extract_layer_norm.weight",
        "feature_projection.projection.bias": "encoder_frontend.model_dim_proj.bias",
        "encoder.layer_norm.bias": (
            "encoder_frontend.layer_norm.bias" if kind == "base" else "encoder.layer_norm.bias"
        ),
        norms[0].removeprefix(prefix): "encoder_frontend.pos_encoder.conv.weight_g",
        norms[1].removeprefix(prefix): "encoder_frontend.pos_encoder.conv.weight_v",
        "encoder.layers.1.attention.q_proj.weight": "encoder.layers.1.self_attn.q_proj.weight",
        "encoder.layers.1.attention.out_proj.bias": "encoder.layers.1.self_attn.output_proj.bias",
        "encoder.layers.0.layer_norm.bias": "encoder.layers.0.self_attn_layer_norm.bias",
        "encoder.layers.0.final_layer_norm.bias": "encoder.layers.0.ffn_layer_norm.bias",
        "encoder.layers.1.feed_forward.intermediate_dense.weight": (
            "encoder.layers.1.ffn.inner_proj.weight"
        ),
        "encoder.layers.0.feed_forward.output_dense.weight": (
            "encoder.layers.0.ffn.output_proj.weight"
        ),
    }

    for name, ours in expected.items():
        assert torch.equal(converted[ours], theirs[prefix + name]), name

    # All but the output layer is there.
    values = {x.data_ptr() for x in converted.values()}
    assert {n for n, x in theirs.items() if x.data_ptr() not in values} == (
        {"lm_head.weight", "lm_head.bias"} if for_ctc else set()
    )


def test_biases_of_zero_in_convolutions_are_left_out_and_others_refused() -> None:
    model = HuggingFaceModel(make_hugging_face("large", conv_bias=True))
    theirs = randomize(model.state_dict())
    config = make_config("large", init_missing_head=True)

    with pytest.raises(InputError, match=r"has the tensor `.*\.layers\.0\.conv\.bias` and 1 more"):
        convert(theirs, config)

    for i in range(2):
        theirs[f"feature_extractor.conv_layers.{i}.conv.bias"].zero_()

    convert(theirs, config)

    config.encoder_config.feature_extractor_bias = True
    assert (
        convert(theirs, config)["encoder_frontend.feature_extractor.layers.1.conv.bias"].eq(0).all()
    )


def test_a_missing_head_is_refused_unless_a_new_one_is_asked_for() -> None:
    theirs = randomize(HuggingFaceModel(make_hugging_face()).state_dict())

    with pytest.raises(
        InputError,
        match=r"has no tensor `final_proj.weight`, which pre-training needs; set `init_missing_head`",
    ):
        convert(theirs, make_config())

    config = make_config(init_missing_head=True)
    state = torch.get_rng_state()
    first, second = (
        convert_hubert_state_dict(theirs, config),
        convert_hubert_state_dict(theirs, config),
    )

    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in HEAD)

    torch.manual_seed(5)
    other = convert_hubert_state_dict(theirs, config)

    for name in HEAD[1:]:
        assert not torch.equal(first[name], other[name])

    assert 0.0 <= first["code_embeddings"].min() < 0.2 < 0.8 < first["code_embeddings"].max() < 1.0
    assert -0.25 <= first["final_proj.weight"].min() < -0.2 < 0.2 < first["final_proj.weight"].max()


def test_a_head_that_is_there_is_kept() -> None:
    theirs = make_fairseq()
    del theirs["mask_emb"]

    converted = convert(theirs, make_config(init_missing_head=True))

    assert torch.equal(converted["final_proj.weight"], theirs["final_proj.weight"])
    assert torch.equal(converted["code_embeddings"], theirs["label_embs_concat"])

    with pytest.raises(InputError, match=r"has no tensor `masker\.temporal_mask_embed`"):
        convert(theirs, make_config())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [False, True])
def test_ours_stay_as_they_are(prefix: str, nested: bool) -> None:
    config = make_config()
    ours = randomize(create_hubert_model(config).state_dict())
    given: dict[str, object] = {prefix + name: x for name, x in ours.items()}

    converted = convert({"model": given} if nested else given, config)

    assert list(converted) == list(ours)
    assert all(converted[name] is x for name, x in ours.items())


def test_our_encoder_without_a_head_is_refused() -> None:
    config = make_config()
    ours = randomize(create_hubert_model(config).state_dict())
    del ours["code_embeddings"]

    with pytest.raises(InputError, match="has no tensor `code_embeddings`, which pre-training"):
        convert(ours, config)

    assert convert(ours, replace(config, init_missing_head=True))["code_embeddings"].shape == (8, 6)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda x: {n: t for n, t in x.items() if ".1.fc1." not in n},
            r"is of fairseq, has nothing for the tensor `encoder.layers.1.ffn.inner_proj.weight` "
            "and 1 more",
        ),
        (
            lambda x: x | {"target_glu.0.weight": torch.ones(2)},
            r"has the tensor `target_glu.0.weight`, which the model has not",
        ),
        (
            lambda x: x | {"encoder.layers.0.fc1.bias": torch.ones(25)},
            r"`encoder.layers.0.ffn.inner_proj.bias` in the shape \(25,\), but the model in \(24,\)",
        ),
        (
            lambda x: x | {"label_embs_concat": torch.ones(10, 6)},
            r"`code_embeddings` in the shape \(10, 6\), but the model in \(8, 6\); set the conf",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[Tensors], Tensors], error: str) -> None:
    with pytest.raises(InputError, match=error):
        convert(change(make_fairseq()), make_config())


def test_another_kind_of_extractor_is_refused() -> None:
    theirs = randomize(HuggingFaceModel(make_hugging_face("large")).state_dict())

    with pytest.raises(
        InputError,
        match=r"Hugging Face transformers, has the tensor `.*layers\.1\.layer_norm\.weight` and 1 m",
    ):
        convert(theirs, make_config("base", init_missing_head=True))


def test_a_norm_stands_where_the_configuration_says() -> None:
    config = make_config("large")
    config.encoder_config.norm_order = TransformerNormOrder.POST

    with pytest.raises(InputError, match=r"has the tensor `encoder\.layer_norm\.weight`"):
        convert(make_fairseq("large"), config)
