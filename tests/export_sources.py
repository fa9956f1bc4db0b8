"""Small models of random weights to export."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig

from eqssl_speech.export.loading import ExportSource, make_export_source
from eqssl_speech.export.parity import read_recordings
from eqssl_speech.models.formats.names import Family
from eqssl_speech.models.hubert.config import micro_config as micro_hubert_config
from eqssl_speech.models.opening import make_model
from eqssl_speech.models.speech_checkpoint import SpeechCheckpoint
from eqssl_speech.models.wav2vec2.asr import fit_asr_config, micro_asr_config
from eqssl_speech.models.wav2vec2.config import micro_config
from eqssl_speech.text.languages import make_rules
from eqssl_speech.text.tokenizer import CtcTokenizer, Kind
from eqssl_speech.text.tokenizer_info import TrainedSource
from eqssl_speech.text.training import train_tokenizer

TEXTS = ["съешь ещё этих мягких французских булок да выпей чаю", "в чащах юга жил бы цитрус"] * 4

NORMS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "norm_order": TransformerNormOrder.PRE,
        "layer_norm_features": False,
        "feature_extractor_layer_norm_convs": True,
        "feature_extractor_bias": True,
    },
    "mixed": {"norm_order": TransformerNormOrder.PRE, "layer_norm_features": False},
    "square": {"feature_dim": 48, "feature_extractor_layer_descs": None},
}


def make_encoder_config(norms: str) -> Wav2Vec2EncoderConfig:
    config = replace(micro_config().encoder_config, **NORMS[norms])

    if norms == "square":
        descs = micro_config().encoder_config.feature_extractor_layer_descs
        config.feature_extractor_layer_descs = [(48, *desc[1:]) for desc in descs]

    return config


def make_tokenizer(kind: Kind = "char") -> CtcTokenizer:
    return train_tokenizer(
        {TrainedSource("ru", "ru", 8): TEXTS},
        {"ru": make_rules("ru")},
        kind=kind,
        vocab_size=None if kind == "char" else 38,
    )


def make_source(family: Family, norms: str = "base", kind: Kind = "char") -> ExportSource:
    """Make a model of random weights, its biases and norms among them."""
    torch.manual_seed(5)

    encoder_config = make_encoder_config(norms)
    tokenizer = make_tokenizer(kind) if family == "wav2vec2_asr" else None
    config: Any

    if family == "hubert":
        config = replace(micro_hubert_config([7]), encoder_config=encoder_config)
    elif tokenizer is not None:
        config = fit_asr_config(micro_asr_config(), encoder_config, tokenizer.vocab_size)
    else:
        config = replace(micro_config(), encoder_config=encoder_config)

    tensors = dict(make_model(family, config).state_dict())
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensors[name] = tensor + 0.2 * torch.randn_like(tensor)

    def make() -> ExportSource:
        checkpoint = SpeechCheckpoint("a model", family, config, tensors, None, None)

        return make_export_source(checkpoint, tokenizer)

    if family == "wav2vec2_asr":
        # So that each label is the best one now and then.
        tensors["final_proj.weight"] = 3.0 * torch.randn_like(tensors["final_proj.weight"])

        logits = make().make_plain().run(read_recordings(None, 16_000)[:1]).logits
        assert logits is not None
        tensors["final_proj.bias"] -= logits[0].mean(dim=0)

    return make()
