"""The ``config.json`` of Hugging Face transformers, into our configurations and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig
from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig

from eqssl_speech.error import InputError
from eqssl_speech.models.formats.names import TRANSFORMERS, Family
from eqssl_speech.models.formats.shapes import AnyConfig
from eqssl_speech.models.hubert.config import HubertConfig

ModelType: TypeAlias = Literal["wav2vec2", "hubert"]
"""The model types of transformers whose encoders we have."""

_REQUIRED: Final[Mapping[str, object]] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "adapter_attn_dim": None,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}
"""What our models cannot do otherwise, and transformers' defaults."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_dropout": 0.1,
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.1,
    "layerdrop": 0.1,
    "feat_extract_norm": "group",
    "conv_dim": [512] * 7,
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "apply_spec_augment": True,
    "mask_time_prob": 0.05,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
    "mask_feature_min_masks": 0,
    "num_codevectors_per_group": 320,
    "num_codevector_groups": 2,
    "contrastive_logits_temperature": 0.1,
    "num_negatives": 100,
    "codevector_dim": 256,
    "proj_codevector_dim": 256,
    "vocab_size": 32,
}
"""What a key stands for that a ``config.json`` leaves out."""


def parse_model_type(where: str, data: Mapping[str, Any]) -> ModelType:
    """Read what kind of model a ``config.json`` is of.

    :param where: The file, for messages.
    :param data: Its content.
    :raises InputError: If it is none that we have.
    """
    model_type = data.get("model_type")

    if model_type not in ("wav2vec2", "hubert"):
        raise InputError(
            f"{where}: is of a model of the type `{model_type}`; those that can be read are `wav2vec2` and `hubert`."
        )

    return "wav2vec2" if model_type == "wav2vec2" else "hubert"


def parse_encoder_config(where: str, data: Mapping[str, Any]) -> Wav2Vec2EncoderConfig:
    """Read the encoder from a ``config.json``.

    :param where: The file, for messages.
    :param data: Its content.
    :raises InputError: If a key has a value that our models cannot have, or none that makes sense.
    """
    for key, value in _REQUIRED.items():
        if data.get(key, value) != value:
            raise InputError(
                f"{where}: `{key}` is {data[key]!r}, but models here have {value!r} only; choose another checkpoint."
            )

    get = _Getter(where, data)

    norm = get("feat_extract_norm")
    if norm not in ("group", "layer"):
        raise InputError(
            f"{where}: `feat_extract_norm` must be 'group' or 'layer', but is {norm!r} instead."
        )

    descs = list(zip(get("conv_dim"), get("conv_kernel"), get("conv_stride"), strict=False))

    if not descs or {len(get(key)) for key in ("conv_dim", "conv_kernel", "conv_stride")} != {
        len(descs)
    }:
        raise InputError(
            f"{where}: `conv_dim`, `conv_kernel` and `conv_stride` must be of one length, at least 1."
        )

    is_pre_norm = get("do_stable_layer_norm")

    return Wav2Vec2EncoderConfig(
        model_dim=get("hidden_size"),
        feature_dim=descs[-1][0],
        first_pass_dropout_p=get("feat_proj_dropout"),
        layer_norm_features=not is_pre_norm,
        feature_extractor_layer_descs=descs,
        feature_extractor_bias=get("conv_bias"),
        feature_extractor_layer_norm_convs=norm == "layer",
        # Transformers has none; these are those of the papers, of wav2vec 2.0 base and of the large models.
        feature_grad_scale=1.0 if norm == "layer" else 0.1,
        pos_conv_kernel_size=get("num_conv_pos_embeddings"),
        num_pos_conv_groups=get("num_conv_pos_embedding_groups"),
        num_encoder_layers=get("num_hidden_layers"),
        num_encoder_attn_heads=get("num_attention_heads"),
        ffn_inner_dim=get("intermediate_size"),
        dropout_p=get("hidden_dropout"),
        attn_dropout_p=get("attention_dropout"),
        ffn_inner_dropout_p=get("activation_dropout"),
        layer_drop_p=get("layerdrop"),
        norm_order=TransformerNormOrder.PRE if is_pre_norm else TransformerNormOrder.POST,
    )


def parse_config(
    where: str, data: Mapping[str, Any], encoder_config: Wav2Vec2EncoderConfig, family: Family
) -> AnyConfig:
    """Read what a model has besides its encoder from a ``config.json``.

    What is masked in pre-training is left at our defaults: transformers says what is masked in fine-tuning.

    :param where: The file, for messages.
    :param data: Its content.
    :param encoder_config: Its encoder.
    :param family: The family that the model is to have here.
    :raises InputError: If a value makes no sense.
    """
    get = _Getter(where, data)

    if family == "hubert":
        return HubertConfig(encoder_config=encoder_config, init_missing_head=True)

    if family == "wav2vec2":
        return Wav2Vec2Config(
            encoder_config=encoder_config,
            final_dim=get("proj_codevector_dim"),
            quantized_dim=get("codevector_dim"),
            num_codebooks=get("num_codevector_groups"),
            num_codebook_entries=get("num_codevectors_per_group"),
            num_distractors=get("num_negatives"),
            logit_temp=get("contrastive_logits_temperature"),
        )

    encoder_config.feature_grad_scale = 1.0

    return Wav2Vec2AsrConfig(
        encoder_config=encoder_config,
        target_vocab_size=get("vocab_size"),
        final_dropout_p=get("final_dropout"),
        use_masking=bool(get("apply_spec_augment")) and get("mask_time_prob") > 0.0,
        temporal_mask_span_len=get("mask_time_length"),
        max_temporal_mask_prob=get("mask_time_prob"),
        min_num_temporal_mask_spans=get("mask_time_min_masks"),
        spatial_mask_span_len=get("mask_feature_length"),
        max_spatial_mask_prob=get("mask_feature_prob"),
        min_num_spatial_mask_spans=get("mask_feature_min_masks"),
    )


def format_encoder_config(config: Wav2Vec2EncoderConfig) -> dict[str, object]:
    """Write an encoder as a ``config.json`` does; the reverse of :func:`parse_encoder_config`.

    :raises InputError: If transformers has no such encoder.
    """
    require_plain_encoder(config, TRANSFORMERS.name)

    channels, kernels, strides = zip(*config.feature_extractor_layer_descs, strict=True)

    return {
        "hidden_size": config.model_dim,
        "num_hidden_layers": config.num_encoder_layers,
        "num_attention_heads": config.num_encoder_attn_heads,
        "intermediate_size": config.ffn_inner_dim,
        "hidden_dropout": config.dropout_p,
        "activation_dropout": config.ffn_inner_dropout_p,
        "attention_dropout": config.attn_dropout_p,
        "feat_proj_dropout": config.first_pass_dropout_p,
        "layerdrop": config.layer_drop_p,
        "feat_extract_norm": "layer" if config.feature_extractor_layer_norm_convs else "group",
        "conv_dim": list(channels),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "conv_bias": config.feature_extractor_bias,
        "num_feat_extract_layers": len(channels),
        "num_conv_pos_embeddings": config.pos_conv_kernel_size,
        "num_conv_pos_embedding_groups": config.num_pos_conv_groups,
        "do_stable_layer_norm": config.norm_order == TransformerNormOrder.PRE,
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "layer_norm_eps": 1e-5,
    }


def format_config(config: AnyConfig) -> dict[str, object]:
    """Write a model as a ``config.json`` does; the reverse of :func:`parse_config`.

    :raises InputError: If transformers has no such model.
    """
    data = format_encoder_config(config.encoder_config)

    if isinstance(config, Wav2Vec2AsrConfig):
        return data | {
            "vocab_size": config.target_vocab_size,
            "final_dropout": config.final_dropout_p,
            "apply_spec_augment": config.use_masking,
            **_format_masks(config, is_masked=config.use_masking),
            "ctc_loss_reduction": "mean",
            "ctc_zero_infinity": True,
        }

    data |= _format_masks(config, is_masked=True)

    if isinstance(config, Wav2Vec2Config):
        data |= {
            "proj_codevector_dim": config.final_dim,
            "codevector_dim": config.quantized_dim,
            "num_codevector_groups": config.num_codebooks,
            "num_codevectors_per_group": config.num_codebook_entries,
            "num_negatives": config.num_distractors,
            "contrastive_logits_temperature": config.logit_temp,
        }

    return data


def require_plain_encoder(config: Wav2Vec2EncoderConfig, library: str) -> None:
    """Refuse an encoder that other libraries' wav2vec 2.0 and HuBERT cannot have.

    :param config: The encoder.
    :param library: The name of the library.
    :raises InputError: If it takes other input than waveforms, has other layers, other positions or other norms.
    """
    if config.use_conformer:
        what = "Conformer layers (`use_conformer`) with norms where its own have none"
    elif config.use_fbank:
        what = "filterbanks as input (`use_fbank`)"
    elif config.pos_encoder_type != "conv" or config.pos_encoder_depth != 1:
        what = (
            f"`pos_encoder_type` '{config.pos_encoder_type}' with `pos_encoder_depth` {config.pos_encoder_depth}, "
            "where its own is one convolution"
        )
    elif config.layer_norm_features == (config.norm_order == TransformerNormOrder.PRE):
        what = (
            f"`layer_norm_features` {config.layer_norm_features} with `norm_order` '{config.norm_order.name}', where "
            "its own have one norm in front of post-norm layers or one behind pre-norm ones"
        )
    else:
        return

    raise InputError(
        f"The model has {what}, so {library} cannot compute it; export it `--to onnx` or `--to fairseq2`."
    )


def _format_masks(config: AnyConfig, *, is_masked: bool) -> dict[str, object]:
    return {
        # Transformers has no embedding for masked frames where neither is masked.
        "mask_time_prob": config.max_temporal_mask_prob if is_masked else 0.0,
        "mask_time_length": config.temporal_mask_span_len,
        "mask_time_min_masks": config.min_num_temporal_mask_spans,
        "mask_feature_prob": config.max_spatial_mask_prob if is_masked else 0.0,
        "mask_feature_length": config.spatial_mask_span_len,
        "mask_feature_min_masks": config.min_num_spatial_mask_spans,
    }


class _Getter:
    """Reads values and refuses those of another type than the default's."""

    def __init__(self, where: str, data: Mapping[str, Any]) -> None:
        self._where = where
        self._data = data

    def __call__(self, key: str) -> Any:
        default = _DEFAULTS[key]
        value = self._data.get(key, default)

        if isinstance(default, list):
            is_fine = isinstance(value, (list, tuple)) and all(_is_int(v) and v > 0 for v in value)
        elif isinstance(default, bool):
            is_fine = isinstance(value, bool)
        elif isinstance(default, str):
            is_fine = isinstance(value, str)
        elif isinstance(default, int):
            is_fine = _is_int(value) and value >= 0
        else:
            is_fine = isinstance(value, (int, float)) and not isinstance(value, bool)

        if not is_fine:
            raise InputError(
                f"{self._where}: `{key}` is {value!r}, which makes no sense; the file is damaged, or is not what "
                "`save_pretrained` writes."
            )

        return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
