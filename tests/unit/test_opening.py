"""Checkpoints of other libraries become ours and go back to the bit; shapes tell what a file leaves unsaid."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)
from transformers import Wav2Vec2Config as TransformersWav2Vec2Config

from eqssl_speech.error import InputError
from eqssl_speech.export.transformers_model import convert_to_transformers
from eqssl_speech.models.continuing import load_pretrained
from eqssl_speech.models.formats.names import FAIRSEQ, TORCHAUDIO, TRANSFORMERS, Family, spell
from eqssl_speech.models.hubert import create_hubert_model
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.opening import make_empty_model, make_model, open_checkpoint
from eqssl_speech.models.wav2vec2.config import micro_config, tiny_config

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.1,
}

NORMS: dict[str, dict[str, Any]] = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    "mixed": {"feat_extract_norm": "group", "do_stable_layer_norm": True},
}

CLASSES = {
    "wav2vec2": (Wav2Vec2ForPreTraining, Wav2Vec2ForCTC, Wav2Vec2Model),
    "hubert": (HubertForCTC, HubertModel),
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def make_theirs(kls: type[Module], norms: str, **settings: Any) -> Any:
    config_kls = HubertConfig if kls.__name__.startswith("Hubert") else TransformersWav2Vec2Config

    return kls(config_kls(**(SMALL | NORMS[norms] | settings)))


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert sorted(actual) == sorted(expected)

    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize("kls", [kls for classes in CLASSES.values() for kls in classes])
def test_transformers_goes_through_ours_and_back_to_the_bit(
    tmp_path: Path, kls: type[Module], norms: str
) -> None:
    theirs = make_theirs(kls, norms)
    theirs.save_pretrained(tmp_path / "hf")

    checkpoint = open_checkpoint(tmp_path / "hf")

    back = convert_to_transformers(
        checkpoint.family,
        "hubert" if kls.__name__.startswith("Hubert") else "wav2vec2",
        checkpoint.config,
        checkpoint.tensors,
    )

    assert back.class_name == kls.__name__
    assert back.left_out == ()
    assert_same(back.tensors, theirs.state_dict())

    before = json.loads((tmp_path / "hf" / "config.json").read_text())
    # How it is trained may be said otherwise, but not what it computes.
    computed = {
        key: value
        for key, value in back.config.items()
        if key in before and not key.startswith(("mask_", "ctc_")) and "token" not in key
    }
    assert len(computed) > 20
    assert computed == {key: before[key] for key in computed}


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "shards"])
def test_transformers_may_store_tensors_otherwise(tmp_path: Path, weights: str) -> None:
    theirs = make_theirs(Wav2Vec2ForCTC, "large")

    if weights == "shards":
        theirs.save_pretrained(tmp_path, max_shard_size="50KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    else:
        theirs.config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / weights)

    checkpoint = open_checkpoint(tmp_path)

    assert checkpoint.family == "wav2vec2_asr"
    make_model(checkpoint.family, checkpoint.config).load_state_dict(checkpoint.tensors)


def make_fairseq(family: Family, config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = "w2v_encoder.w2v_model." if family == "wav2vec2_asr" else ""

    return {
        spell(name, family, FAIRSEQ, prefix): tensor
        for name, tensor in tensors.items()
        if name != "quantizer.num_updates"
    }


def set_shapes(config: Any, kind: str) -> Any:
    """Give a small model the norms of the larger ones."""
    theirs = make_theirs(Wav2Vec2Model, kind, num_attention_heads=2)
    theirs_config = theirs.config.to_dict()

    from eqssl_speech.models.formats.transformers_config import parse_encoder_config

    return replace(config, encoder_config=parse_encoder_config("here", theirs_config))


@pytest.mark.parametrize("norms", ["base", "large"])
@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("settings", ["args", "cfg", "none"])
def test_a_file_of_fairseq_tells_its_shapes(
    tmp_path: Path, family: Family, norms: str, settings: str
) -> None:
    config = set_shapes(micro_config() if family == "wav2vec2" else micro_hubert_config([9]), norms)
    tensors = dict(make_model(family, config).state_dict())
    theirs = make_fairseq(family, config, tensors)

    if family == "hubert":
        # Four symbols that are no codes come first.
        theirs["label_embs_concat"] = torch.cat([torch.ones(4, 24), theirs["label_embs_concat"]])

    said = {"encoder_attention_heads": 2, "layer_norm_first": norms == "large"}
    content: dict[str, Any] = {"model": theirs}
    if settings == "args":
        content["args"] = argparse.Namespace(**said)
    elif settings == "cfg":
        content |= {"args": None, "cfg": {"model": said}}
    torch.save(content, tmp_path / "a.pt")

    checkpoint = open_checkpoint(tmp_path / "a.pt")

    assert checkpoint.family == family
    assert checkpoint.library is FAIRSEQ
    assert checkpoint.encoder_config.num_encoder_attn_heads == 2
    assert checkpoint.encoder_config.norm_order == config.encoder_config.norm_order
    assert_same(
        checkpoint.tensors, {n: x for n, x in tensors.items() if n != "quantizer.num_updates"}
    )
    make_empty_model(family, checkpoint.config).load_state_dict(
        checkpoint.tensors, strict=family == "hubert", assign=True
    )


def test_a_fine_tuned_file_of_fairseq_is_a_recogniser(tmp_path: Path) -> None:
    theirs = make_theirs(Wav2Vec2ForCTC, "large")
    theirs.save_pretrained(tmp_path / "hf")
    ours = open_checkpoint(tmp_path / "hf")

    w2v_args = {"model": {"encoder_attention_heads": 4, "layer_norm_first": True}}
    content = {
        "cfg": {"model": {"w2v_args": w2v_args}},
        "model": make_fairseq("wav2vec2_asr", ours.config, ours.tensors),
    }
    torch.save(content, tmp_path / "a.pt")

    checkpoint = open_checkpoint(tmp_path / "a.pt")

    assert checkpoint.family == "wav2vec2_asr"
    assert checkpoint.encoder_config.num_encoder_attn_heads == 4
    assert_same(checkpoint.tensors, ours.tensors)


@pytest.mark.parametrize("make", [micro_config, tiny_config])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_of_fairseq2_needs_no_configuration(
    tmp_path: Path, make: Callable[[], Wav2Vec2Config], wrapped: bool
) -> None:
    """As those of Omnilingual ASR are published."""
    tensors = create_wav2vec2_model(make()).state_dict()
    torch.save({"model": tensors} if wrapped else tensors, tmp_path / "a.pt")

    checkpoint = open_checkpoint(tmp_path / "a.pt")

    assert checkpoint.encoder_config == make().encoder_config
    assert checkpoint.library is None
    create_wav2vec2_model(checkpoint.config).load_state_dict(checkpoint.tensors)  # type: ignore[arg-type]


def test_what_a_file_does_not_say_is_said_unless_the_model_knows_better(tmp_path: Path) -> None:
    """The number of attention heads shows in no shape."""
    config = tiny_config()
    torch.save(create_wav2vec2_model(config).state_dict(), tmp_path / "a.pt")

    checkpoint = open_checkpoint(tmp_path / "a.pt")
    report = load_pretrained(create_wav2vec2_model(config), config, checkpoint)

    assert report.guessed == {"num_encoder_attn_heads": 4}
    assert "does not say `num_encoder_attn_heads`, which is 4 in released" in report.render()

    config = replace(config, encoder_config=replace(config.encoder_config))
    config.encoder_config.num_encoder_attn_heads = 6
    report = load_pretrained(create_wav2vec2_model(config), config, checkpoint)

    assert not report.guessed


def test_a_model_yaml_of_another_program_says_nothing(tmp_path: Path) -> None:
    torch.save(create_wav2vec2_model(micro_config()).state_dict(), tmp_path / "a.pt")
    (tmp_path / "model.yaml").write_text("layers: 12\n")

    assert open_checkpoint(tmp_path / "a.pt").guessed

    (tmp_path / "model.yaml").write_text("model_family: wav2vec2\nmodel_conf")

    with pytest.raises(InputError, match=r"model\.yaml: is damaged"):
        open_checkpoint(tmp_path / "a.pt")


def test_a_model_of_waveforms_as_they_are_is_refused_where_ours_are_normalised(
    tmp_path: Path,
) -> None:
    for norms in ("base", "large"):
        directory = tmp_path / norms
        make_theirs(Wav2Vec2Model, norms).save_pretrained(directory)
        (directory / "preprocessor_config.json").write_text('{"do_normalize": false}')

    # The first norm undoes what another loudness does.
    open_checkpoint(tmp_path / "base")

    with pytest.raises(InputError, match=r"preprocessor_config.json: says that waveforms are not"):
        open_checkpoint(tmp_path / "large")


def test_a_file_of_torchaudio_is_read(tmp_path: Path) -> None:
    config = micro_hubert_config([7])
    config = set_shapes(config, "base")
    tensors = create_hubert_model(config).state_dict()
    theirs = {spell(n, "hubert", TORCHAUDIO, "wav2vec2."): x for n, x in tensors.items()}
    save_file(theirs, tmp_path / "a.safetensors")

    checkpoint = open_checkpoint(tmp_path / "a.safetensors")

    assert (checkpoint.family, checkpoint.library) == ("hubert", TORCHAUDIO)
    assert_same(checkpoint.tensors, tensors)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "wavlm"}, "is of a model of the type `wavlm`; those that can be read"),
        ({"adapter_attn_dim": 16}, "`adapter_attn_dim` is 16, but models here have None only"),
        ({"hidden_act": "relu"}, "`hidden_act` is 'relu', but models here have 'gelu' only"),
        ({"feat_extract_norm": "batch"}, "`feat_extract_norm` must be 'group' or 'layer'"),
        ({"conv_kernel": [10, 3]}, "must be of one length"),
        ({"hidden_size": "many"}, "`hidden_size` is 'many', which makes no sense"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    make_theirs(Wav2Vec2Model, "base").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    with pytest.raises(InputError, match=rf"config\.json: .*{error}"):
        open_checkpoint(tmp_path)


def test_a_directory_without_tensors_or_with_half_of_them_is_refused(tmp_path: Path) -> None:
    make_theirs(Wav2Vec2Model, "base").save_pretrained(tmp_path, max_shard_size="50KB")
    shard = min(tmp_path.glob("model-*.safetensors"))

    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"model-.*is not a safetensors file, or is damaged"):
        open_checkpoint(tmp_path)

    shard.unlink()
    with pytest.raises(InputError, match=r"model-.*cannot be read"):
        open_checkpoint(tmp_path)

    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"holds no model\.safetensors or pytorch_model\.bin"):
        open_checkpoint(tmp_path)

    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not a JSON object, or is damaged"):
        open_checkpoint(tmp_path)


def test_what_transformers_cannot_compute_is_refused() -> None:
    config = micro_config()
    tensors = create_wav2vec2_model(config).state_dict()

    for change, error in (
        ({"use_conformer": True}, "Conformer layers"),
        ({"layer_norm_features": False}, "`layer_norm_features` False with `norm_order` 'POST'"),
        ({"pos_encoder_type": "rotary"}, "`pos_encoder_type` 'rotary'"),
        ({"use_fbank": True}, "filterbanks"),
    ):
        other = replace(config, encoder_config=replace(config.encoder_config, **change))

        with pytest.raises(InputError, match=rf"{error}.*Hugging Face transformers cannot"):
            convert_to_transformers("wav2vec2", "wav2vec2", other, tensors)


def test_a_run_may_be_named_by_its_step_only_if_it_is_one(tmp_path: Path) -> None:
    torch.save(create_wav2vec2_model(micro_config()).state_dict(), tmp_path / "a.pt")

    with pytest.raises(InputError, match="is one checkpoint, of which `--step` cannot"):
        open_checkpoint(tmp_path / "a.pt", step=3)


def test_names_of_transformers_are_those_of_its_classes() -> None:
    """Guards the table of names itself, not only that it can be undone."""
    theirs = make_theirs(Wav2Vec2ForPreTraining, "base").state_dict()

    assert (
        spell("encoder.layers.1.ffn.inner_proj.bias", "wav2vec2", TRANSFORMERS, "wav2vec2.")
        in theirs
    )
    assert spell("final_target_proj.weight", "wav2vec2", TRANSFORMERS) in theirs
